"""What every engine needs in the guest, whatever CPU it is: nothing here knows of one.

``slots`` finds a top-level slot for an engine's own code, ``footprint`` knows which words steps may
read and change and puts them back, ``access_stubs`` are the instructions that make an access,
``ports`` are the devices that a kernel's tests know.
"""
