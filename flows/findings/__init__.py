"""What the trainings of a study say: verdicts, words, a table and figures, all from one object."""
