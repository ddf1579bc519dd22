"""What several update rules are made of: formulas and checks that rules share, since rules never import one another. No part is a rule."""
