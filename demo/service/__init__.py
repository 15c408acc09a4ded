"""Generation behind the page: queue, worker, results."""
