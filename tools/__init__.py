"""What developers and continuous integration run: nothing here is part of the package."""
