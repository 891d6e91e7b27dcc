"""Which operators a graph may hold: what exporters of diffusion models write, and nothing that loops.

Left out are control flow (Loop, Scan, If), sequences, strings and pictures, which such models do not need,
and whatever loads code or files of its own (EPContext, custom domains).
"""

from __future__ import annotations

# What PyTorch, Optimum and our own exporter write for the networks of diffusion models.
STANDARD = frozenset(
    b"""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Col2Im Compress Concat
    Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div
    Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger
    Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
    QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RotaryEmbedding Round Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu
    Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()
)

# What ONNX Runtime's optimiser fuses and its quantiser writes; ``GroupNorm`` and its kin exist on GPUs alone.
MICROSOFT = frozenset(
    b"""
    Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation
    GatherBlockQuantized GatherND Gelu GemmFastGelu GemmFloat8 GridSample GroupNorm GroupQueryAttention
    MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQkv
    MulInteger MultiHeadAttention NhwcConv NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention
    Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax
    QLinearWhere QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedMatMul QuantizeLinear
    QuickGelu ReduceSumInteger RelativePositionBias RotaryEmbedding ScaledSiLU SkipGroupNorm
    SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul Trilu
    """.split()
)

ALLOWED = {b"": STANDARD, b"ai.onnx": STANDARD, b"com.microsoft": MICROSOFT}

# At which inputs quantised operators take their scales: without one the numbers mean nothing.
SCALES = {
    b"DequantizeLinear": (1,),
    b"QuantizeLinear": (1,),
    b"QLinearConv": (1, 4, 6),
    b"QLinearMatMul": (1, 4, 6),
    b"QLinearAdd": (1, 4, 6),
    b"QLinearMul": (1, 4, 6),
    b"QGemm": (1, 4),
    b"MatMulNBits": (2,),
    b"DynamicQuantizeMatMul": (2,),
    b"MatMulIntegerToFloat": (2, 3),
}
