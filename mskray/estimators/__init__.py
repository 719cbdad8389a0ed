"""What scikit-learn families share: features as files, bags fitted on Ray tasks, estimators that skops can store.

Only `extract` imports torch: the tasks that fit start in a second, not in six, and hold less memory.
"""
