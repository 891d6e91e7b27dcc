"""Tasks, one file each: a request, checked before any work, and a function from request to plan."""
