//! Every metric that a Flotilla node exports, declared in one place.
