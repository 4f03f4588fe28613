"""Every claim beside what a run measured."""
