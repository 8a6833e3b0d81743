//! The Flotilla node.
