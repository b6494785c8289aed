"""The helper package of the course "Loss to BERT". Importing it imports nothing heavy; its modules hold the rest."""


class CourseError(Exception):
    """Something that the person at the keyboard can put right: one line that says what, where and what to do."""
