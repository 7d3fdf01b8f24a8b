"""Where jobs run: the inline, local and fleet runners, and the Celery worker's side of a fleet."""
