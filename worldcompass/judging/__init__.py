"""What a viewer would see: forgeries of videos, and blind votes."""
