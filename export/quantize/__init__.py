"""Turns a recorded model's layers into integers: plans, calibration, codes, receipts."""
