"""What a person uses: command line, run, report."""
