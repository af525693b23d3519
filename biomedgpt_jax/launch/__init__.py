"""What would be run to start a job somewhere: a plan, as data, for each kind of place."""
