"""What people see: walks and faults in words (``report``), tables as pictures (``diagram``)."""
