"""Scores of a run's answers, with intervals: functions of suite files and ledger alone."""
