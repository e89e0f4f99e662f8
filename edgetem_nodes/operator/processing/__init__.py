"""`edgetem process`: features of a measured scan, from a file of any size, as EMD and PNG."""
