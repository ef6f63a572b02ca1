// Package metrics is what a plugin process tells Prometheus (docs/monitoring.md): what has been done, counted where it is
// done, and how things stand, asked for at each scrape. No path, lease or value is in a label.
//
// # Bounds
//
// The labels of counters are constants, and each of their series begins at 0 with the process. Those of the gauges name a task's secret, but neither the allocation nor the
// run of a dispatched or periodic job: what comes and goes with them leaves no series behind. Label sets that several tasks
// share are one series, with the earliest moment and the worst readiness; so are all of them where there are more than
// maxSeries, or where the operator wants it so.
package metrics
