"""One suite per variant: `test_<variant>.py`. The only place that knows lite."""
