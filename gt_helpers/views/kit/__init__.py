"""What the views share: style, HTML, the explorer's frame, the drawing of circuits."""
