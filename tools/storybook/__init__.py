"""A grammar of small stories: words, a teller, threads, and plots by kind. The door is stories.py."""
