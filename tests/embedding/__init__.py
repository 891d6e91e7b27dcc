"""A program that embeds edgediff, run as an app would run it."""
