//! Prometheus metrics: base units, `_total` for counters, labels from closed sets only.

use prometheus::{
    CounterVec, Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// Histogram bounds in seconds, from a local round trip to a timeout.
const BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];

/// A service's metrics.
///
/// # Panics
/// Its methods panic when a name is registered twice or is not valid in Prometheus, which any test
/// of the service shows.
#[derive(Clone, Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// The metrics of `service`, with those of its process and its build.
    pub fn new(service: &str, version: &str) -> Self {
        let metrics = Self(Registry::new());
        #[cfg(target_os = "linux")]
        metrics
            .0
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("unique names");
        let build = metrics.int_gauge_vec(
            &format!("{service}_build_info"),
            "The version of this program, as a label of a constant 1.",
            &["version"],
        );
        build.with_label_values(&[version]).set(1);
        metrics
    }

    /// A counter.
    pub fn int_counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect("a valid name"))
    }

    /// A family of counters.
    pub fn int_counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    /// A family of counters of seconds.
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.register(CounterVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    /// A gauge of whole numbers.
    pub fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help).expect("a valid name"))
    }

    /// A family of gauges of whole numbers.
    pub fn int_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    /// A family of gauges.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    /// A family of histograms of seconds.
    pub fn histogram_vec(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.register(HistogramVec::new(options, labels).expect("valid names"))
    }

    /// All of them in Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without values, which has nothing to show.
        let _ = TextEncoder::new().encode(&self.0.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("a unique name");
        collector
    }
}
