"""Boards: build and upload through PlatformIO, talk over a serial port."""
