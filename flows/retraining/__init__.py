"""From incoming images to a challenger that was judged, with a report."""
