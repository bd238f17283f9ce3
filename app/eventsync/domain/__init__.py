"""Pure and synchronous: values, patches, positions, frames, plans. No driver, no framework."""
