"""What people see: walks and faults in words (``report``), page tables as pictures (``diagram``)."""
