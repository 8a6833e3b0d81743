//! Families of metrics whose handles are resolved when they are registered: looking one up is an index into an array,
//! counting is one atomic addition. No string is touched after the start.

use std::marker::PhantomData;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::labels::Label;

/// The name of the label that holds a peer's node id: the one label whose values are not known beforehand. Their
/// number is that of the cluster's nodes.
pub(crate) const PEER: &str = "peer";

/// One declaration: what is known of a family before it is registered.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// The exported name.
    pub name: &'static str,
    /// What is counted.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for the other kinds.
    pub buckets: &'static [f64],
}

/// A single counter, gauge or histogram.
pub trait Metric: Clone + Send + Sync + 'static {
    /// As the exported text and the reference call it.
    const KIND: &'static str;
    /// The family with labels that such metrics come from.
    type Family: Collector + Clone + 'static;

    /// Makes a family.
    ///
    /// # Errors
    /// Name, labels or buckets break Prometheus' rules.
    fn family(declaration: &Declaration, labels: &[&str]) -> Result<Self::Family, Error>;

    /// The member of a family with these label values.
    ///
    /// # Errors
    /// The number of values is not that of the labels.
    fn member(family: &Self::Family, values: &[&str]) -> Result<Self, Error>;

    /// Takes the member with these values out of the exported text.
    fn remove(family: &Self::Family, values: &[&str]);
}

/// Implements [`Metric`] for a metric type of the `prometheus` crate and its vector.
macro_rules! metric {
    ($metric:ty, $vector:ty, $kind:literal, $declaration:ident => $options:expr) => {
        impl Metric for $metric {
            const KIND: &'static str = $kind;
            type Family = $vector;

            fn family($declaration: &Declaration, labels: &[&str]) -> Result<Self::Family, Error> {
                <$vector>::new($options, labels)
            }

            fn member(family: &Self::Family, values: &[&str]) -> Result<Self, Error> {
                family.get_metric_with_label_values(values)
            }

            fn remove(family: &Self::Family, values: &[&str]) {
                // The only error is that there is no such member, which is what the caller wants.
                let _ = family.remove_label_values(values);
            }
        }
    };
}

metric!(IntCounter, IntCounterVec, "counter", d => Opts::new(d.name, d.help));
metric!(Counter, CounterVec, "counter", d => Opts::new(d.name, d.help));
metric!(IntGauge, IntGaugeVec, "gauge", d => Opts::new(d.name, d.help));
metric!(Gauge, GaugeVec, "gauge", d => Opts::new(d.name, d.help));
metric!(Histogram, HistogramVec, "histogram", d => HistogramOpts::new(d.name, d.help).buckets(d.buckets.to_vec()));

/// What a field of [`crate::Metrics`] can be.
pub trait Family: Sized {
    /// Kind of the family's metrics.
    const KIND: &'static str;

    /// Label names with their values; a label without values is the peer's node id.
    fn labels() -> Vec<(&'static str, &'static [&'static str])>;

    /// Registers the family and resolves its handles.
    ///
    /// # Errors
    /// The declaration breaks Prometheus' rules, or the name is taken.
    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error>;
}

/// Makes and registers a family with the labels of `F`.
fn registered<F: Family, M: Metric>(
    registry: &Registry,
    declaration: &Declaration,
) -> Result<M::Family, Error> {
    let names: Vec<&str> = F::labels().iter().map(|(name, _)| *name).collect();
    let family = M::family(declaration, &names)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

impl<M: Metric> Family for M {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, &'static [&'static str])> {
        Vec::new()
    }

    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error> {
        M::member(&registered::<Self, M>(registry, declaration)?, &[])
    }
}

/// Metrics of one family, one per value of a label.
#[derive(Clone, Debug)]
pub struct By<M, L> {
    /// *Invariant*: as many as `L::VALUES`, in that order.
    members: Box<[M]>,
    label: PhantomData<fn(L)>,
}

impl<M: Metric, L: Label> By<M, L> {
    /// The metric of one label value.
    #[inline]
    pub fn of(&self, value: L) -> &M {
        &self.members[value.index()]
    }

    fn resolve(mut member: impl FnMut(&'static str) -> Result<M, Error>) -> Result<Self, Error> {
        let members = L::VALUES
            .iter()
            .map(|value| member(value))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            members,
            label: PhantomData,
        })
    }
}

impl<M: Metric, L: Label> Family for By<M, L> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(L::NAME, L::VALUES)]
    }

    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error> {
        let family = registered::<Self, M>(registry, declaration)?;
        Self::resolve(|value| M::member(&family, &[value]))
    }
}

/// Metrics of one family, one per pair of values of two labels.
#[derive(Clone, Debug)]
pub struct By2<M, A, B> {
    /// *Invariant*: as many as `A::VALUES`, in that order.
    rows: Box<[By<M, B>]>,
    label: PhantomData<fn(A)>,
}

impl<M: Metric, A: Label, B: Label> By2<M, A, B> {
    /// The metric of one pair of label values.
    #[inline]
    pub fn of(&self, first: A, second: B) -> &M {
        self.rows[first.index()].of(second)
    }
}

impl<M: Metric, A: Label, B: Label> Family for By2<M, A, B> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(A::NAME, A::VALUES), (B::NAME, B::VALUES)]
    }

    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error> {
        let family = registered::<Self, M>(registry, declaration)?;
        let row = |first: &&'static str| By::resolve(|second| M::member(&family, &[first, second]));
        Ok(Self {
            rows: A::VALUES.iter().map(row).collect::<Result<_, _>>()?,
            label: PhantomData,
        })
    }
}

/// Metrics of one family, one per peer and value of a label. A connection resolves its peer's once and keeps them.
#[derive(Clone)]
pub struct ByPeer<M: Metric, L> {
    family: M::Family,
    label: PhantomData<fn(L)>,
}

impl<M: Metric, L: Label> ByPeer<M, L> {
    /// The metrics of one peer.
    pub fn peer(&self, node: u64) -> By<M, L> {
        let node = node.to_string();
        By::resolve(|value| M::member(&self.family, &[&node, value]))
            .expect("the family was made with the labels that are filled in here")
    }

    /// Takes a peer that left the cluster out of the exported text.
    pub fn forget(&self, node: u64) {
        let node = node.to_string();
        for value in L::VALUES {
            M::remove(&self.family, &[&node, value]);
        }
    }
}

impl<M: Metric, L: Label> Family for ByPeer<M, L> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(PEER, &[]), (L::NAME, L::VALUES)]
    }

    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error> {
        Ok(Self {
            family: registered::<Self, M>(registry, declaration)?,
            label: PhantomData,
        })
    }
}

impl<M: Metric, L> std::fmt::Debug for ByPeer<M, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByPeer").finish_non_exhaustive()
    }
}

/// Metrics of one family, one per peer.
#[derive(Clone)]
pub struct PerPeer<M: Metric>(M::Family);

impl<M: Metric> PerPeer<M> {
    /// The metric of one peer.
    pub fn peer(&self, node: u64) -> M {
        M::member(&self.0, &[&node.to_string()])
            .expect("the family was made with the label that is filled in here")
    }

    /// Takes a peer that left the cluster out of the exported text.
    pub fn forget(&self, node: u64) {
        M::remove(&self.0, &[&node.to_string()]);
    }
}

impl<M: Metric> Family for PerPeer<M> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(PEER, &[])]
    }

    fn register(registry: &Registry, declaration: &Declaration) -> Result<Self, Error> {
        Ok(Self(registered::<Self, M>(registry, declaration)?))
    }
}

impl<M: Metric> std::fmt::Debug for PerPeer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerPeer").finish_non_exhaustive()
    }
}
