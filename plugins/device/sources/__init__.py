"""Where devices come from. A source finds them, follows their changes, and knows no rule."""
