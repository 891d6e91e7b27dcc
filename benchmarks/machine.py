"""What a figure was measured on."""

from edgediff.machine import card as card
