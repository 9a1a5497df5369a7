//! Group normalisations rewritten as ONNX Runtime's own operator, for a GPU that computes on images whose
//! channels come last.

use super::weights;
use crate::proto::{AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use std::collections::{HashMap, HashSet};

/// The operator set of `GroupNorm`.
const DOMAIN: &str = "com.microsoft";

/// Replaces every group normalisation that [`group_norm`](crate::builder::GraphBuilder::group_norm) wrote,
/// and the SiLU behind it, by one operator between two transpositions, and returns how many there were.
///
/// The transpositions are those that ONNX Runtime puts around convolutions when it is asked for channels
/// last, so that they cancel and a whole network runs in that order. The operator stands in ONNX Runtime's
/// CUDA provider alone, which is why files do not have it.
pub(super) fn fuse(model: &mut ModelProto) -> usize {
    let fused = model.graph.as_mut().map_or(0, |graph| fuse_graph(graph, &Shapes::new()));
    if fused > 0 && model.opset_import.iter().all(|set| set.domain != DOMAIN) {
        model.opset_import.push(OperatorSetIdProto { domain: DOMAIN.to_owned(), version: 1 });
    }
    fused
}

/// Shapes by the names of the constants that hold them.
type Shapes = HashMap<String, Vec<i64>>;

/// The same for a graph within others, whose shapes are `outer`.
fn fuse_graph(graph: &mut GraphProto, outer: &Shapes) -> usize {
    let mut shapes = outer.clone();
    shapes.extend(constants(graph));
    let found = Patterns::of(graph, &shapes).all();
    let mut fused = found.len();
    let removed: HashSet<usize> = found.iter().flat_map(|norm| norm.nodes.iter().copied()).collect();
    let mut replaced: HashMap<usize, [NodeProto; 3]> =
        found.into_iter().map(|norm| (norm.last, norm.replacement)).collect();
    let nodes = std::mem::take(&mut graph.node);
    for (i, node) in nodes.into_iter().enumerate() {
        match replaced.remove(&i) {
            Some(replacement) => graph.node.extend(replacement),
            None if removed.contains(&i) => {}
            None => graph.node.push(node),
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            fused += fuse_graph(inner, &shapes);
        }
    }
    fused
}

/// The vectors of integers among a graph's weights and constants.
fn constants(graph: &GraphProto) -> impl Iterator<Item = (String, Vec<i64>)> {
    let weights = graph.initializer.iter().map(|tensor| (&tensor.name, tensor));
    let nodes = graph.node.iter().filter(|node| node.op_type == "Constant");
    let nodes = nodes.filter_map(|node| Some((node.output.first()?, node.attribute.first()?.t.as_ref()?)));
    weights.chain(nodes).filter(|(_, tensor)| tensor.dims.len() == 1).filter_map(|(name, tensor)| {
        let integers = weights::decode("", tensor).ok()?;
        Some((name.clone(), integers.as_i64()?.to_vec()))
    })
}

/// A group normalisation that was found.
struct Norm {
    /// The places of its nodes.
    nodes: Vec<usize>,
    /// The place of the last, where what replaces them is put.
    last: usize,
    replacement: [NodeProto; 3],
}

/// Who writes and who reads the values of a graph.
struct Patterns<'a> {
    graph: &'a GraphProto,
    shapes: &'a Shapes,
    writers: HashMap<&'a str, usize>,
    readers: HashMap<&'a str, Vec<usize>>,
    /// Values that are read from outside of the nodes: outputs, and what graphs within this one read.
    kept: HashSet<&'a str>,
}

impl<'a> Patterns<'a> {
    fn of(graph: &'a GraphProto, shapes: &'a Shapes) -> Patterns<'a> {
        let (mut writers, mut readers) = (HashMap::new(), HashMap::<&str, Vec<usize>>::new());
        let mut kept: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        for (i, node) in graph.node.iter().enumerate() {
            writers.extend(node.output.iter().map(|name| (name.as_str(), i)));
            for name in &node.input {
                readers.entry(name).or_default().push(i);
            }
            for inner in
                node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
            {
                super::each_graph(inner, &mut |inner| {
                    kept.extend(inner.node.iter().flat_map(|node| &node.input).map(String::as_str));
                    kept.extend(inner.output.iter().map(|output| output.name.as_str()));
                });
            }
        }
        Patterns { graph, shapes, writers, readers, kept }
    }

    fn all(&self) -> Vec<Norm> {
        (0..self.graph.node.len()).filter_map(|i| self.norm(i)).collect()
    }

    /// The group normalisation around the layer normalisation at place i.
    fn norm(&self, i: usize) -> Option<Norm> {
        let normal = &self.graph.node[i];
        if normal.op_type != "LayerNormalization" {
            return None;
        }
        let epsilon = normal.attribute.iter().find(|attribute| attribute.name == "epsilon")?.f?;
        let grouped = *self.writers.get(normal.input.first()?.as_str())?;
        let image = self.only_reader(normal, "Reshape")?;
        let scaled = self.only_reader(&self.graph.node[image], "Mul")?;
        let shifted = self.only_reader(&self.graph.node[scaled], "Add")?;
        let [group_node, image_node, scaled_node, shifted_node] =
            [grouped, image, scaled, shifted].map(|place| &self.graph.node[place]);
        if group_node.op_type != "Reshape" {
            return None;
        }
        let [groups, channels] = [group_node, image_node].map(|node| self.target(node));
        let (groups, channels) = (*groups?.get(1)?, *channels?.get(1)?);
        // The operator works on pairs of channels of one group.
        if groups < 1 || channels % (2 * groups) != 0 {
            return None;
        }
        let scale = self.per_channel(scaled_node, &image_node.output[0])?;
        let shift = self.per_channel(shifted_node, &scaled_node.output[0])?;

        let mut nodes = vec![grouped, i, image, scaled, shifted];
        let mut last = shifted;
        let silu = self.silu(shifted_node);
        if let Some((gate, product)) = silu {
            nodes.extend([gate, product]);
            last = product;
        }
        let (x, name) = (group_node.input.first()?, &normal.name);
        let (last_in, last_out) = (format!("{name}/last"), format!("{name}/normal"));
        let output = &self.graph.node[last].output[0];
        let replacement = [
            transpose(&format!("{name}/to"), x, &last_in, [0, 2, 3, 1]),
            NodeProto {
                name: format!("{name}/GroupNorm"),
                op_type: "GroupNorm".to_owned(),
                domain: DOMAIN.to_owned(),
                input: vec![last_in.clone(), scale.to_owned(), shift.to_owned()],
                output: vec![last_out.clone()],
                attribute: vec![
                    integer("activation", i64::from(silu.is_some())),
                    integer("channels_last", 1),
                    integer("groups", groups),
                    AttributeProto {
                        name: "epsilon".to_owned(),
                        f: Some(epsilon),
                        r#type: AttributeType::Float as i32,
                        ..AttributeProto::default()
                    },
                ],
                doc_string: shifted_node.doc_string.clone(),
            },
            transpose(&format!("{name}/from"), &last_out, output, [0, 3, 1, 2]),
        ];
        Some(Norm { nodes, last, replacement })
    }

    /// The place of the node that alone reads a node's output, if it is of this operator.
    fn only_reader(&self, node: &NodeProto, operator: &str) -> Option<usize> {
        let name = node.output.first()?.as_str();
        match self.readers.get(name)?.as_slice() {
            [reader] if !self.kept.contains(name) && self.graph.node[*reader].op_type == operator => {
                Some(*reader)
            }
            _ => None,
        }
    }

    /// The places of the two nodes of x sigmoid(x), if they alone read a node's output x.
    fn silu(&self, node: &NodeProto) -> Option<(usize, usize)> {
        let x = node.output.first()?.as_str();
        let readers = self.readers.get(x)?;
        let of = |operator: &str| readers.iter().copied().find(|i| self.graph.node[*i].op_type == operator);
        let (gate, product) = (of("Sigmoid")?, of("Mul")?);
        let gated = self.only_reader(&self.graph.node[gate], "Mul")?;
        (readers.len() == 2 && gated == product && !self.kept.contains(x)).then_some((gate, product))
    }

    /// The shape that a reshape asks for.
    fn target(&self, reshape: &NodeProto) -> Option<&'a [i64]> {
        self.shapes.get(reshape.input.get(1)?).map(Vec::as_slice)
    }

    /// The vector \[C\] that is the other input of a product or a sum, behind an `Unsqueeze` and, where the
    /// images are of 16 bits, a `Cast`: the operator takes it in 32.
    fn per_channel(&self, node: &'a NodeProto, known: &str) -> Option<&'a str> {
        let other = node.input.iter().find(|name| *name != known)?;
        let behind = |name: &str, operator: &str| {
            let writer = &self.graph.node[*self.writers.get(name)?];
            (writer.op_type == operator).then(|| writer.input.first().map(String::as_str)).flatten()
        };
        let vector = behind(other, "Unsqueeze")?;
        Some(behind(vector, "Cast").unwrap_or(vector))
    }
}

fn transpose(name: &str, x: &str, y: &str, order: [i64; 4]) -> NodeProto {
    NodeProto {
        name: name.to_owned(),
        op_type: "Transpose".to_owned(),
        input: vec![x.to_owned()],
        output: vec![y.to_owned()],
        attribute: vec![AttributeProto {
            name: "perm".to_owned(),
            ints: order.to_vec(),
            r#type: AttributeType::Ints as i32,
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

fn integer(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(i),
        r#type: AttributeType::Int as i32,
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::builder::{ConvSpec, GraphBuilder, ModelInfo};
    use crate::model::Model;
    use crate::{Dim, ElementType};

    /// A convolution, a normalisation with SiLU and one without, each with the value's other readers.
    fn model(channels: usize, groups: usize) -> Model {
        let mut g = GraphBuilder::new("norms");
        let x = g.input("x", ElementType::F32, [Dim::from("N"), channels.into(), 4.into(), 4.into()]);
        let x = x.expect("an input");
        let scale = g.initializer_f32("scale", &[channels], &vec![0.5; channels]).expect("a weight");
        let shift = g.initializer_f32("shift", &[channels], &vec![0.25; channels]).expect("a weight");
        let kernel =
            g.initializer_f32("kernel", &[channels, channels, 1, 1], &vec![0.1; channels * channels]);
        let first = g.group_norm(x, groups, scale, shift, 1e-6).expect("a norm");
        let first = g.silu(first).expect("an activation");
        let y = g.conv(first, kernel.expect("a weight"), None, &ConvSpec::default()).expect("a convolution");
        let second = g.group_norm(y, groups, scale, shift, 1e-5).expect("a norm");
        let sum = g.add(second, y).expect("a sum");
        g.output("y", sum).expect("an output");
        g.into_model(ModelInfo::default()).expect("a model")
    }

    #[test]
    fn norms_and_the_activation_behind_them_become_one_operator() {
        let fused = model(8, 2).with_fused_group_norms().expect("norms");
        let graph = fused.proto.graph.as_ref().expect("a graph");
        let operators: Vec<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        let kinds = ["LayerNormalization", "Sigmoid", "Reshape"];
        assert!(operators.iter().all(|operator| !kinds.contains(operator)), "{operators:?}");
        let norms: Vec<_> = graph.node.iter().filter(|node| node.op_type == "GroupNorm").collect();
        assert_eq!(norms.len(), 2);
        let number = |i: usize, name: &str| {
            let attribute = norms[i].attribute.iter().find(|attribute| attribute.name == name);
            attribute.and_then(|attribute| attribute.i).expect("an integer")
        };
        assert_eq!([number(0, "activation"), number(1, "activation")], [1, 0]);
        assert_eq!([number(0, "groups"), number(0, "channels_last")], [2, 1]);
        assert_eq!(norms[0].input[1..], ["scale", "shift"]);
        assert!(fused.proto.opset_import.iter().any(|set| set.domain == "com.microsoft" && set.version == 1));
        // Every value is written before it is read, once.
        let mut known: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        known.push("x");
        for node in &graph.node {
            assert!(node.input.iter().all(|name| known.contains(&name.as_str())), "{node:?}");
            assert!(node.output.iter().all(|name| !known.contains(&name.as_str())), "{node:?}");
            known.extend(node.output.iter().map(String::as_str));
        }
        assert!(known.contains(&"y"));
    }

    #[test]
    fn groups_of_an_odd_number_of_channels_stay() {
        assert_eq!(model(6, 2).with_fused_group_norms(), None);
    }
}
