"""What a consultation client needs; public doors only."""
