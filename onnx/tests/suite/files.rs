//! Files: what is written can be read by this crate and by others, and broken files are refused.

use crate::common;
use crate::peers::python;
use performer_ddpm_onnx::builder::{
    Binary, ConvSpec, GraphBuilder, IR_VERSION, ModelInfo, OPSET, Reduction, ReshapeDim, Unary,
};
use performer_ddpm_onnx::proto::{
    AttributeProto, DataLocation, DimensionProto, DimensionValue, ModelProto, StringStringEntryProto,
    TensorProto,
};
use performer_ddpm_onnx::runner::{TRACT_BUILT_IN, load_tract};
use performer_ddpm_onnx::{Dim, ElementType, Error, Model, Result, Tensor};
use proptest::prelude::*;
use prost::Message;
use std::process::Command;

/// A graph with weights of both types, a Scan with weights of its own, scopes and metadata.
fn sample() -> Result<Model> {
    let mut body = GraphBuilder::body("step");
    let x = body.input("step/x", ElementType::F32, [Dim::from("N"), Dim::from(4)])?;
    let z = body.input("step/z", ElementType::F32, [Dim::from("N"), Dim::from(4)])?;
    let w = body.initializer_f32("inner.weight", &[4, 4], &common::numbers(1, 16))?;
    let y = body.matmul(x, w)?;
    let y = body.add(y, z)?;
    body.output("step/y", y)?;

    let mut g = GraphBuilder::new("sample");
    let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(4), Dim::from(6), Dim::from(6)])?;
    let t = g.input("t", ElementType::I64, [Dim::from("N")])?;
    let z = g.input("z", ElementType::F32, [Dim::from("K"), Dim::from("N"), Dim::from(4)])?;
    let h = g.within("conv_in", "a convolution", |g| {
        let w = g.initializer_f32("conv_in.weight", &[4, 4, 3, 3], &common::numbers(2, 144))?;
        let b = g.initializer_f32("conv_in.bias", &[4], &[0.0; 4])?;
        let h = g.conv(x, w, Some(b), &ConvSpec { pads: [1; 4], ..ConvSpec::default() })?;
        let h = g.group_norm(h, 2, b, b, 1e-5)?;
        g.silu(h)
    })?;
    let pooled = g.reduce(Reduction::Mean, h, &[2, 3], false)?;
    let table = g.initializer_f32("embedding", &[10, 4], &common::numbers(3, 40))?;
    let time = g.gather(table, 0, t)?;
    let x = g.add(pooled, time)?;
    let offsets = g.initializer_i64("offsets", &[1], &[5])?;
    let last = g.scan(body, &[x], &[z])?.states[0];
    let moved = g.binary(Binary::Add, t, offsets)?;
    g.output("last", last)?;
    g.output("moved", moved)?;
    g.into_model(ModelInfo {
        producer_name: "tests".to_owned(),
        producer_version: "1".to_owned(),
        doc: "a sample".to_owned(),
        metadata: vec![("betas".to_owned(), "[0.1, 0.2]".to_owned())],
    })
}

fn bytes() -> Vec<u8> {
    sample().and_then(|model| model.to_bytes()).expect("a model that fits together")
}

fn refusal(bytes: &[u8]) -> String {
    Model::from_bytes("some.onnx", bytes).expect_err("not a model").to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let model = sample().expect("a model");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("sample.onnx");
    model.write(&path).expect("written");
    let again = Model::read(&path).expect("read");
    assert_eq!(again.proto(), model.proto());
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
    assert_eq!(again.metadata("betas"), Some("[0.1, 0.2]"));
    assert_eq!(again.metadata("absent"), None);
    let weight = again.initializer("inner.weight").expect("the weight inside the Scan");
    assert_eq!(weight, Tensor::f32([4, 4], common::numbers(1, 16)).expect("16 numbers"));
    assert_eq!(again.initializer("offsets").expect("integers").as_i64(), Some(&[5][..]));
    let error = again.initializer("absent").expect_err("there is none").to_string();
    assert!(error.contains("an initialiser named absent"), "{error}");
}

#[test]
fn a_write_that_fails_names_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = sample().expect("a model").write(folder.path().join("absent/sample.onnx"));
    let error = error.expect_err("no such folder");
    assert!(matches!(&error, Error::Write { .. }));
    assert!(error.to_string().contains("sample.onnx"), "{error}");
}

#[test]
fn a_summary_counts_sub_graphs_too() {
    let summary = sample().expect("a model").summary().expect("a sound model");
    assert_eq!((summary.ir_version, &summary.opsets[..]), (IR_VERSION, &[(String::new(), OPSET)][..]));
    assert_eq!(summary.producer, "tests 1");
    assert_eq!(summary.graph, "sample");
    let inputs: Vec<String> = summary.inputs.iter().map(ToString::to_string).collect();
    assert_eq!(inputs, ["x f32 [N, 4, 6, 6]", "t i64 [N]", "z f32 [K, N, 4]"]);
    let outputs: Vec<String> = summary.outputs.iter().map(ToString::to_string).collect();
    assert_eq!(outputs, ["last f32 [N, 4]", "moved i64 [N]"]);
    // 144 + 4 in the convolution, 40 in the table, 16 in the Scan; the integer is no parameter.
    assert_eq!(summary.parameters, 204);
    assert_eq!(summary.weights.len(), 5);
    assert_eq!(summary.operators["MatMul"], 1);
    assert_eq!(summary.operators["Scan"], 1);
    assert_eq!(summary.nodes(), summary.operators.values().sum::<usize>());
    assert_eq!(summary.metadata[0].0, "betas");
}

#[test]
fn a_symbol_s_length_can_be_fixed_everywhere() {
    let open = sample().expect("a model");
    let fixed = open.with_length("N", 7);
    let summary = fixed.summary().expect("a summary");
    let shown: Vec<String> = summary.inputs.iter().chain(&summary.outputs).map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["x f32 [7, 4, 6, 6]", "t i64 [7]", "z f32 [K, 7, 4]", "last f32 [7, 4]", "moved i64 [7]"]
    );
    let symbols = |model: &Model| format!("{:?}", model.proto()).matches("DimParam(\"N\")").count();
    assert!(symbols(&open) > 5 && symbols(&fixed) == 0, "{} and {}", symbols(&open), symbols(&fixed));
    assert_eq!(open, sample().expect("a model"), "the original stays");
    assert_eq!(open.with_length("M", 7), open);
}

#[test]
fn nodes_carry_scope_and_documentation() {
    let model = sample().expect("a model");
    let graph = model.proto().graph.as_ref().expect("a graph");
    let conv = graph.node.iter().find(|node| node.op_type == "Conv").expect("the convolution");
    assert_eq!((conv.name.as_str(), conv.doc_string.as_str()), ("conv_in/Conv", "a convolution"));
    let mean = graph.node.iter().find(|node| node.op_type == "ReduceMean").expect("the mean");
    assert_eq!((mean.name.as_str(), mean.doc_string.as_str()), ("ReduceMean", ""));
}

#[test]
fn repeated_integers_are_written_unpacked_and_read_in_both_forms() {
    let attribute = AttributeProto { ints: vec![1, 300], ..AttributeProto::default() };
    // Field 8: once per number as a varint (wire type 0), or all in one block (wire type 2).
    assert_eq!(attribute.encode_to_vec(), [0x40, 0x01, 0x40, 0xac, 0x02]);
    let packed = AttributeProto::decode(&[0x42, 0x03, 0x01, 0xac, 0x02][..]).expect("packed");
    assert_eq!(packed.ints, attribute.ints);
    let tensor = TensorProto { dims: vec![2, 3], ..TensorProto::default() };
    assert_eq!(tensor.encode_to_vec(), [0x08, 0x02, 0x08, 0x03]);
    assert_eq!(TensorProto::decode(&[0x0a, 0x02, 0x02, 0x03][..]).expect("packed").dims, tensor.dims);
    // For a tensor's typed data it is the other way round.
    let floats = TensorProto { float_data: vec![1.0], ..TensorProto::default() };
    assert_eq!(floats.encode_to_vec(), [0x22, 0x04, 0x00, 0x00, 0x80, 0x3f]);
}

#[test]
fn foreign_forms_of_weights_are_read() {
    let typed = |tensor: TensorProto| {
        let mut proto = sample().expect("a model").proto().clone();
        proto.graph.as_mut().expect("a graph").initializer =
            vec![TensorProto { name: "w".to_owned(), ..tensor }];
        Model::from_proto("foreign", proto).expect("a model").initializer("w")
    };
    let floats = TensorProto {
        dims: vec![2],
        data_type: ElementType::F32.code(),
        float_data: vec![1.5, -2.0],
        ..TensorProto::default()
    };
    assert_eq!(typed(floats.clone()).expect("floats").as_f32(), Some(&[1.5, -2.0][..]));
    let integers = TensorProto {
        dims: vec![],
        data_type: ElementType::I64.code(),
        int64_data: vec![-7],
        ..TensorProto::default()
    };
    assert_eq!(typed(integers).expect("a scalar").as_i64(), Some(&[-7][..]));
    for (broken, words) in [
        (TensorProto { dims: vec![3], ..floats.clone() }, "3 elements for shape [3], got 2"),
        (TensorProto { raw_data: Some(vec![0; 7]), ..floats.clone() }, "expected 2 elements"),
        (TensorProto { raw_data: Some(vec![0; 9]), ..floats.clone() }, "expected 2 elements"),
        (TensorProto { dims: vec![-1], ..floats.clone() }, "[-1]"),
        (TensorProto { dims: vec![i64::MAX, i64::MAX], ..floats.clone() }, "fit in memory"),
        (TensorProto { data_type: ElementType::F16.code(), ..floats.clone() }, "got f16"),
    ] {
        let error = typed(broken).expect_err("broken").to_string();
        assert!(error.contains("initialiser w") && error.contains(words), "{error}");
    }
}

#[test]
fn weights_in_another_file_are_refused_by_name() {
    let mut proto = sample().expect("a model").proto().clone();
    let weight = &mut proto.graph.as_mut().expect("a graph").initializer[0];
    weight.raw_data = None;
    weight.data_location = DataLocation::External as i32;
    weight.external_data = vec![StringStringEntryProto { key: "location".into(), value: "w.bin".into() }];
    let model = Model::from_proto("split.onnx", proto).expect("a model");
    assert_eq!(model.external_weight(), Some("conv_in.weight"));
    assert!(model.summary().expect("a summary").weights[0].external);
    let mut errors = vec![model.initializer("conv_in.weight").expect_err("elsewhere")];
    if TRACT_BUILT_IN {
        errors.push(load_tract(&model).err().expect("weights in another file"));
    }
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("conv_in.weight") && text.contains("one file"), "{text}");
        assert!(error.is_bad_input());
    }
}

#[test]
fn damaged_numbers_are_named() {
    let with = |data: Vec<u8>, data_type: i32, dims: Vec<i64>| {
        let mut proto = sample().expect("a model").proto().clone();
        let weight = TensorProto {
            name: "w".to_owned(),
            dims,
            data_type,
            raw_data: Some(data),
            ..TensorProto::default()
        };
        proto.graph.as_mut().expect("a graph").initializer.push(weight);
        Model::from_proto("some.onnx", proto).expect("a model")
    };
    let floats = |numbers: [f32; 2]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let (f32, f16) = (ElementType::F32.code(), ElementType::F16.code());
    with(floats([1.0, -3e4]), f32, vec![2]).check_numbers(1e18).expect("numbers");
    with(floats([1.0, f32::INFINITY]), f32, vec![2]).check_numbers(f64::INFINITY).expect("a mask");
    with(f32::MAX.to_le_bytes().to_vec(), f32, vec![1]).check_numbers(1e18).expect("a bound");
    for (model, largest) in [
        (with(floats([1.0, f32::NAN]), f32, vec![2]), f64::INFINITY),
        (with(floats([1.0, 1e30]), f32, vec![2]), 1e18),
        (with(vec![0, 0x3c, 0, 0x7e], f16, vec![2]), f64::INFINITY),
    ] {
        let error = model.check_numbers(largest).expect_err("damaged");
        let text = error.to_string();
        assert!(error.is_bad_input() && text.contains("initialiser w, element 1"), "{text}");
    }
}

#[test]
fn a_key_of_the_metadata_that_is_there_twice_is_refused() {
    let mut proto = sample().expect("a model").proto().clone();
    let again = StringStringEntryProto { key: "betas".into(), value: "[0.5]".into() };
    proto.metadata_props.push(again);
    let text = Model::from_proto("some.onnx", proto).expect_err("two of them").to_string();
    assert!(text.contains("\"betas\" twice"), "{text}");
}

#[test]
fn other_files_are_told_for_what_they_are() {
    assert!(refusal(b"").contains("an empty file"));
    assert!(refusal(b"PK\x03\x04archive").contains("zip archive"));
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS"));
    assert!(refusal(b"\x89PNG\r\n\x1a\n").contains("expected an ONNX model"));
    // A message that decodes but is no model: one field that the schema does not know.
    assert!(refusal(&[0xf8, 0x07, 0x01]).contains("without a graph"));
    let missing = Model::read("no/such/file.onnx").expect_err("no file");
    assert!(matches!(missing, Error::Read { .. }));
    let mut proto = sample().expect("a model").proto().clone();
    proto.opset_import.clear();
    let error = Model::from_proto("some.onnx", proto).expect_err("no operator set");
    assert!(error.to_string().contains("opset_import"), "{error}");
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_is_cut() {
    let bytes = bytes();
    // Cuts at every place near both ends and at every 97th between; a cut between two of the outermost fields
    // leaves a readable message without metadata or operator set, and the latter is refused for that.
    let near = (0..200).chain(bytes.len() - 200..bytes.len());
    for cut in near.chain((200..bytes.len()).step_by(97)) {
        match Model::from_bytes("cut.onnx", &bytes[..cut]) {
            Err(error) => assert!(error.is_bad_input(), "{error}"),
            Ok(model) => assert_eq!(model.metadata("betas"), None, "cut at {cut}"),
        }
    }
    let text = refusal(&bytes[..bytes.len() / 2]);
    assert!(text.contains("ends too early"), "{text}");
}

#[test]
fn open_dimensions_of_foreign_files_stay_open() {
    let mut proto = sample().expect("a model").proto().clone();
    let input = &mut proto.graph.as_mut().expect("a graph").input[0];
    let shape = input.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut());
    shape.expect("a tensor").shape.as_mut().expect("a shape").dim = vec![
        DimensionProto { value: None },
        DimensionProto { value: Some(DimensionValue::DimValue(-1)) },
        DimensionProto { value: Some(DimensionValue::DimParam(String::new())) },
    ];
    let summary = Model::from_proto("open.onnx", proto).and_then(|model| model.summary());
    assert_eq!(summary.expect("a summary").inputs[0].to_string(), "x f32 [?, ?, ?]");
}

/// What a Python script prints when it is given the sample's path.
fn run_script(python: &str, script: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("sample.onnx");
    sample().expect("a model").write(&path).expect("written");
    let output = Command::new(python).args(["-c", script]).arg(&path).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_reference_checker_accepts_what_is_written() {
    let Some(python) = python("onnx") else { return };
    run_script(&python, "import sys, onnx; onnx.checker.check_model(sys.argv[1], full_check=True)");
}

#[test]
fn the_python_script_of_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let (_, script) = readme.split_once("```python\n").expect("a script");
    let (script, _) = script.split_once("```").expect("its end");
    let Some(python) = python("numpy, onnxruntime") else { return };
    assert_eq!(run_script(&python, script), "last float32 (2, 4)\nmoved int64 (2,)\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(model) = Model::from_bytes("random", &bytes) {
            let _ = model.summary();
        }
    }

    #[test]
    fn damaged_files_never_panic(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = bytes();
        let i = place.index(bytes.len());
        bytes[i] = byte;
        if let Ok(model) = Model::from_bytes("damaged", &bytes) {
            let _ = model.summary().map(|summary| {
                summary.weights.iter().map(|weight| model.initializer(&weight.name).is_ok()).collect::<Vec<_>>()
            });
        }
    }

    #[test]
    fn tensors_survive_the_round_trip(data in proptest::collection::vec(any::<f32>(), 0..64)) {
        let mut g = GraphBuilder::new("one");
        let w = g.initializer_f32("w", &[data.len()], &data).unwrap();
        g.output("y", w).unwrap();
        let bytes = g.into_model(ModelInfo::default()).unwrap().to_bytes().unwrap();
        let read = Model::from_bytes("one", &bytes).unwrap().initializer("w").unwrap();
        let bits = |data: &[f32]| data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(read.as_f32().unwrap()), bits(&data));
    }
}

#[test]
fn a_message_nested_beyond_reason_is_refused() {
    // Sub-graphs within sub-graphs: decoding must stop rather than exhaust the stack.
    let mut proto: ModelProto = sample().expect("a model").proto().clone();
    for _ in 0..200 {
        let inner = proto.graph.take();
        let node = performer_ddpm_onnx::proto::NodeProto {
            op_type: "If".to_owned(),
            attribute: vec![AttributeProto { g: inner, ..AttributeProto::default() }],
            ..Default::default()
        };
        proto.graph = Some(performer_ddpm_onnx::proto::GraphProto { node: vec![node], ..Default::default() });
    }
    assert!(refusal(&proto.encode_to_vec()).contains("recursion limit"));
}

#[test]
fn graphs_refuse_what_does_not_fit_with_both_shapes() {
    let mut g = GraphBuilder::new("refusals");
    let x = g.input("x", ElementType::F32, [Dim::from("N"), Dim::from(3), Dim::from(4)]).expect("an input");
    let y = g.input("y", ElementType::F32, [Dim::from("M"), Dim::from(3), Dim::from(4)]).expect("an input");
    let w = g.initializer_f32("w", &[5, 2], &[0.0; 10]).expect("a weight");
    let t = g.input("t", ElementType::I64, [Dim::from("N")]).expect("an input");
    let image = g.input("image", ElementType::F32, [1, 6, 8, 8]).expect("an input");
    let kernel = g.initializer_f32("kernel", &[4, 5, 3, 3], &[0.0; 180]).expect("a weight");
    let failures = [
        (g.add(x, w), vec!["Add in refusals", "[N, 3, 4]", "[5, 2]"]),
        (g.add(x, y), vec!["[N, 3, 4]", "[M, 3, 4]"]),
        (g.matmul(x, w), vec!["MatMul", "[N, 3, 4]", "[5, 2]", "columns"]),
        (g.add(x, t), vec!["expected f32, got i64", "cast"]),
        (g.unary(Unary::Exp, t), vec!["Exp", "expected f32, got i64"]),
        (g.conv(image, kernel, None, &ConvSpec::default()), vec!["Conv", "[1, 6, 8, 8]", "[4, 5, 3, 3]"]),
        (g.reshape(x, &[ReshapeDim::Copy, ReshapeDim::To(11)]), vec!["[N, 3, 4]", "[copy, 11]"]),
        (g.reshape(x, &[ReshapeDim::To(12), ReshapeDim::To(1)]), vec!["[N, 3, 4]", "[12, 1]"]),
        (g.transpose(x, &[0, 2]), vec!["Transpose", "[N, 3, 4]", "[0, 2]"]),
        (g.concat(1, &[x, y]), vec!["Concat", "[N, 3, 4]", "[M, 3, 4]"]),
        (g.concat(0, &[x, x]), vec!["a fixed length on axis 0", "[N, 3, 4]"]),
        (g.softmax(x, 3), vec!["Softmax", "[N, 3, 4]", "got 3"]),
        (g.layer_norm(x, 1, w, None, 1e-5), vec!["[3, 4]", "[5, 2]"]),
        (g.group_norm(image, 4, w, w, 1e-5), vec!["groups", "[1, 6, 8, 8]", "got 4"]),
        (g.initializer_f32("v", &[2, 2], &[0.0; 3]), vec!["initialiser v", "expected 4 elements", "got 3"]),
        (g.initializer_f32("w", &[1], &[0.0]), vec!["w again"]),
        (GraphBuilder::new("other").scalar(1.0).and_then(|one| g.add(x, one)), vec!["another graph"]),
    ];
    for (i, (result, words)) in failures.into_iter().enumerate() {
        let error = result.err().unwrap_or_else(|| panic!("case {i} was accepted")).to_string();
        for word in words {
            assert!(error.contains(word), "case {i}: {word} is not in: {error}");
        }
    }
}

#[test]
fn scan_refuses_a_body_that_does_not_fit() {
    let body = |name: &str, length: usize, next: usize| -> Result<GraphBuilder> {
        let mut body = GraphBuilder::body(name);
        let x = body.input(&format!("{name}/x"), ElementType::F32, [length])?;
        let z = body.input(&format!("{name}/z"), ElementType::F32, [4])?;
        let y = if next == length { x } else { body.concat(0, &[x, z])? };
        body.output(&format!("{name}/y"), y)?;
        Ok(body)
    };
    let mut g = GraphBuilder::new("outer");
    let x = g.input("x", ElementType::F32, [4]).expect("an input");
    let z = g.input("z", ElementType::F32, [Dim::from("K"), Dim::from(4)]).expect("an input");
    let wrong_state = body("a", 5, 5).and_then(|body| g.scan(body, &[x], &[z]));
    let growing = body("b", 4, 8).and_then(|body| g.scan(body, &[x], &[z]));
    for (error, words) in [(wrong_state, ["[4]", "[5]"]), (growing, ["[4]", "[8]"])] {
        let error = error.expect_err("shapes differ").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let nothing = body("c", 4, 4).and_then(|body| g.scan(body, &[x], &[]));
    assert!(nothing.expect_err("nothing to scan").to_string().contains("at least one scanned value"));
    let mut clashing = GraphBuilder::new("d");
    let inner = clashing.input("x", ElementType::F32, [4]).expect("an input");
    clashing.input("d/z", ElementType::F32, [4]).expect("an input");
    clashing.output("d/y", inner).expect("an output");
    let clash = g.scan(clashing, &[x], &[z]).expect_err("x is taken").to_string();
    assert!(clash.contains("does not use, got x"), "{clash}");
}
