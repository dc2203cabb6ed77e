"""From files to batch(seed, step): images, layouts, sources, drawn rain, downloads, public sets, overlap, batches."""
