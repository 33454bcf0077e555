"""The ports that a kernel's tests know: serial 0x3F8, debug 0xE9 and exit 0xF4, as QEMU has them.

A port where there is nothing reads as ones and swallows what is written.

>>> ports = Ports()
>>> for byte in b"ok":
...     ports.write(0x3F8, 1, byte)
>>> ports.write(0xF4, 1, 0x10)
>>> bytes(ports.serial), ports.exit_code
(b'ok', 33)
"""

from __future__ import annotations

__all__ = ["Ports"]

_SERIAL, _LINE_CONTROL, _LINE_STATUS, _DEBUG, _EXIT = 0x3F8, 0x3FB, 0x3FD, 0xE9, 0xF4
_DIVISOR_LATCH = 0x80
_TRANSMITTER_EMPTY = 0x60


class Ports:
    """What a guest wrote to its ports.

    :ivar serial: bytes written to the serial port.
    :ivar debug: bytes written to the debug port.
    :ivar exit_code: ``v << 1 | 1`` after a write of v to the exit port, as isa-debug-exit does.
    """

    def __init__(self) -> None:
        self.serial = bytearray()
        self.debug = bytearray()
        self.exit_code: int | None = None
        self._line_control = 0

    def read(self, port: int, size: int) -> int:
        """Give what ``in`` reads.

        :param size: bytes.
        """
        if port == _LINE_STATUS:
            return _TRANSMITTER_EMPTY
        if port == _LINE_CONTROL:
            return self._line_control
        if port == _DEBUG:
            return _DEBUG
        if _SERIAL <= port < _SERIAL + 8:
            return 0
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """Take what ``out`` writes.

        :param size: bytes.
        """
        value &= (1 << 8 * size) - 1
        if port == _SERIAL and not self._line_control & _DIVISOR_LATCH:
            self.serial.append(value & 0xFF)
        elif port == _LINE_CONTROL:
            self._line_control = value & 0xFF
        elif port == _DEBUG:
            self.debug.append(value & 0xFF)
        elif port == _EXIT:
            self.exit_code = value << 1 | 1
