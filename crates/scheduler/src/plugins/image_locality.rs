//! ImageLocality: a node that has the pod's images is better, unless few nodes have them.
//!
//! Upstream: pkg/scheduler/framework/plugins/imagelocality.

use std::collections::BTreeMap;

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, MAX_SCORE, Plugin},
};

/// The plugin.
pub struct ImageLocality;

const MEGABYTE: i64 = 1024 * 1024;
/// Below this many bytes of images on the node nothing is won; above, all (per container).
const LEAST: i64 = 23 * MEGABYTE;
const MOST_PER_CONTAINER: i64 = 1000 * MEGABYTE;

/// Share of the nodes that have each image, in thousandths.
struct Spread(BTreeMap<String, i64>);

/// The image's name as nodes list it.
fn normalized(image: &str) -> String {
    let after_host = image.rfind('/').map_or(image, |slash| &image[slash..]);
    if after_host.contains(':') || after_host.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn images(pod: &PodInfo) -> Vec<String> {
    let spec = pod.spec();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.filter_map(|container| container.image.as_deref().map(normalized)).collect()
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], cluster: &Cluster) -> bool {
        let all = cluster.nodes().len().max(1) as i64;
        let spread: BTreeMap<String, i64> = images(pod)
            .into_iter()
            .map(|image| {
                let share = cluster.nodes_with_image(&image) as i64 * 1000 / all;
                (image, share)
            })
            .filter(|(_, share)| *share > 0)
            .collect();
        let any = !spread.is_empty();
        state.put(Spread(spread));
        any
    }

    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Spread(spread)) = state.get::<Spread>() else { return 0 };
        let images = images(pod);
        // Nodes say themselves how large their images are.
        let share =
            |image| Some(i128::from(node.images.get(image)? / 1000) * i128::from(*spread.get(image)?));
        let bytes = images.iter().filter_map(share).sum::<i128>();
        let most = MOST_PER_CONTAINER * images.len() as i64;
        let bytes = i64::try_from(bytes.clamp(LEAST.into(), most.into())).unwrap_or(most);
        (bytes - LEAST) * MAX_SCORE / (most - LEAST)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, node, node_with, pod_with, scores};

    #[test]
    fn the_node_with_the_image_is_better() {
        let images =
            json!({"images": [{"names": ["registry.local/app:latest"], "sizeBytes": 1000 * MEGABYTE}]});
        let cluster = cluster([node("a", "1", "1Gi"), node_with("b", json!({}), images)]);
        let pod = pod_with(json!({"containers": [{"name": "c", "image": "registry.local/app"}]}));
        assert_eq!(scores(&ImageLocality, &pod, &cluster), [0, 48]);
    }
}
