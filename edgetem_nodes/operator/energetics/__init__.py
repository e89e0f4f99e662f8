"""An energy map against the truth, the same engine on the atoms of the virtual specimen; what a report shows of both."""
