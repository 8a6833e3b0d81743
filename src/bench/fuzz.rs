//! What a node's status port returns, of any content, as a benchmark reads it.

use super::servers::fuzz::costs;
use crate::http::Answer;

/// The answer to a request for metrics: it is read as a whole, or as nothing; and what a benchmark reckons with is finite.
///
/// # Panics
/// If that does not hold.
pub fn metrics(data: &[u8]) {
    let answer = Answer::parse(data.to_vec());
    let body = match &answer {
        Ok(answer) => {
            assert!(data.ends_with(&answer.body) && data.len() > answer.body.len());
            answer.text()
        }
        Err(_) => "".into(),
    };
    for text in [&String::from_utf8_lossy(data), &body] {
        for number in costs(text) {
            assert!(number.is_finite(), "{number} from {text:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;

    #[test]
    fn metrics_of_any_content() {
        let page = "# HELP flotilla_node_cpu_seconds x\n\
            flotilla_node_cpu_seconds 1.25\n\
            flotilla_node_process_id 42\n\
            process_start_time_seconds 1.7e9\n\
            process_resident_memory_bytes 1000\n\
            flotilla_requests_total{op=\"put\",result=\"ok\"} 7\n\
            flotilla_log_synced_writes_total 60\n\
            flotilla_write_stage_latency_seconds_bucket{stage=\"sync\",le=\"0.01\"} 4\n\
            flotilla_write_stage_latency_seconds_bucket{stage=\"sync\",le=\"+Inf\"} 5\n\
            flotilla_write_stage_latency_seconds_sum{stage=\"sync\"} 0.5\n\
            process_cpu_seconds_total 7\n\
            flotilla_log_fsyncs_total 2\n";
        let seeds = [
            page.to_owned(),
            format!("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{page}"),
            format!("HTTP/1.0 503 no\r\n\r\n{page}"),
            page.replace("1.25", "NaN"),
            page.replace("1000", "+Inf"),
            page.replace("60", "-1e308"),
            page.replace(" 2\n", " 5e-324\n"),
        ];
        feed("metrics", &seeds.map(String::into_bytes), 20_000, metrics);
    }
}
