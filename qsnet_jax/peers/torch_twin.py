"""QSNet in PyTorch, as its authors would have written it: the same settings, the same parameters, the same losses.

Networks and losses are written anew, from the paper and the table of layers and not from the JAX code, so that
agreement of the two means something. Images are (B, 3, H, W) here. Needs PyTorch, which nothing else here does.

Where the frameworks differ by default, one choice holds on both sides:

  running statistics   0.9 old + 0.1 new, of the biased variance (Flax's rule; PyTorch alone would use the unbiased one)
  batch norm           epsilon 1e-5; instance norm the same, with scale and bias
  Adam                 beta 0.9 and 0.999, epsilon 1e-8 outside the root (the default of both)
  padding              explicit and symmetric: zeros, but reflection in the stem
  precision            as `dtype` says on both sides: products in TF32 for 'tf32' alone (`set_precision`)
  sub-pixel layout     offset-major, (i * stride + j) * C + c, not nn.PixelShuffle's channel-major order
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from qsnet_jax import UserError, derain, model, priors
from qsnet_jax.data import images
from qsnet_jax.weights.torch_files import from_torch as from_torch
from qsnet_jax.weights.torch_files import load_record as load_record
from qsnet_jax.weights.torch_files import load_weights as load_weights
from qsnet_jax.weights.torch_files import save_weights as save_weights
from qsnet_jax.weights.torch_files import to_torch as to_torch

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:
    raise UserError('The PyTorch twin needs PyTorch: pip install torch, 2.10 or newer (extra [torch]).') from error

MOMENTUM = 0.1  # running = 0.9 running + 0.1 batch
DEVICE = {'platform': 'cpu', 'kind': 'cpu', 'count': 1}  # where scores are made with it


class Output(NamedTuple):
    """rain: (B, 3, H, W), the main decoder's; aux_rain: the same of each scale's own decoder."""

    rain: Tensor
    aux_rain: tuple[Tensor, ...]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance follows the biased variance of the batch."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-5, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        mean, variance = self.running_mean.clone(), self.running_var.clone()  # the backward pass keeps what it is given
        y = functional.batch_norm(x, mean, variance, self.weight, self.bias, True, MOMENTUM, self.eps)
        count = x.numel() // x.shape[1]
        with torch.no_grad():  # PyTorch has added MOMENTUM * variance * count / (count - 1)
            self.running_mean.copy_(mean)
            kept = (1 - MOMENTUM) * self.running_var
            self.running_var.copy_(kept + (variance - kept) * ((count - 1) / count))
        return y


class Conv(nn.Conv2d):
    """Convolution that also continues by reflection what is no larger than its margin, one pixel included."""

    is_indexed = False  # continues everything by the indices of pixels: nothing depends on the size then

    def forward(self, x: Tensor) -> Tensor:
        margin = int(self.padding[0])
        if self.padding_mode == 'zeros' or (not self.is_indexed and min(x.shape[-2:]) > margin):
            return super().forward(x)
        for dim in (2, 3):
            x = mirrored(x, dim, margin, x.shape[dim] + margin)
        return functional.conv2d(x, self.weight, self.bias, self.stride)


class ConvNorm(nn.Module):
    """Convolution and norm, then ReLU; without norm the convolution has a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        groups: int = 1,
        rate: int = 1,
        stride: int = 1,
        norm: str = 'batch',
        padding_mode: Literal['zeros', 'reflect'] = 'zeros',
        is_rectified: bool = True,
    ):
        super().__init__()
        self.conv = Conv(
            inputs,
            outputs,
            size,
            stride=stride,
            padding=rate * (size // 2),
            dilation=rate,
            groups=groups,
            bias=norm == 'none',
            padding_mode=padding_mode,
        )
        if norm == 'batch':
            self.norm: nn.Module = BatchNorm(outputs)
        elif norm == 'instance':
            self.norm = nn.InstanceNorm2d(outputs, eps=1e-5, affine=True)
        else:
            self.norm = nn.Identity()
        self.is_rectified = is_rectified

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return functional.relu(y) if self.is_rectified else y


class ShuffleUnit(nn.Module):
    """ShuffleNet-v1 unit, (B, C, H, W) -> same."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        width = channels // 4
        self.groups = groups
        self.reduce = ConvNorm(channels, width, size=1, groups=groups)
        self.depthwise = ConvNorm(width, width, groups=width, is_rectified=False)
        self.expand = ConvNorm(width, channels, size=1, groups=groups, is_rectified=False)

    def forward(self, x: Tensor) -> Tensor:
        y = channel_shuffle(self.reduce(x), self.groups)
        return functional.relu(x + self.expand(self.depthwise(y)))


class Decoder(nn.Module):
    """Group convolutions with a shuffle after each, then the rain layer."""

    def __init__(self, inputs: int, widths: tuple[int, ...], groups: int, stride: int, norm: str, share: bool):
        super().__init__()
        self.groups, self.stride, self.share, self.depth = groups, stride, share, len(widths)
        for number, (before, width) in enumerate(zip((inputs, *widths), widths, strict=False), start=1):
            self.add_module(f'conv_{number}', ConvNorm(before, width, groups=groups, norm=norm))
        self.rain = nn.Conv2d(widths[-1], 3 * stride**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f'conv_{number}')(x)
            if self.share:
                x = channel_shuffle(x, self.groups)
        return depth_to_space(self.rain(x), self.stride)


class QSNet(nn.Module):
    """Predicts the rain in (B, 3, H, W) images in [0, 1], as Output. settings: the fields of `model.QSNet`.

    Parameters start as PyTorch starts them; `load_state_dict(to_torch(variables))` gives them those of a linen network.
    Raises UserError for settings that no network can be built of.
    """

    def __init__(self, settings: Mapping[str, Any]):
        super().__init__()
        self.fields = fields = model.from_config(settings)
        self.settings = {name: getattr(fields, name) for name in model.defaults()}  # for `from_torch`, `save_weights`
        fields.check_settings()
        groups, stride, norm = fields.groups, fields.encoder_stride, fields.norm
        self.stride, self.share_scales, self.scales = stride, fields.share_scales, len(fields.rates) + 1
        self.decoder_groups = groups if fields.decoder_groups is None else fields.decoder_groups
        widths = (fields.channels // 4, fields.channels // 2, fields.channels)
        strides = (1, min(stride, 2), stride // min(stride, 2))
        for number, (before, width, size, step) in enumerate(
            zip((3, *widths), widths, (9, 3, 3), strides, strict=False), start=1
        ):
            stem = ConvNorm(before, width, size=size, stride=step, norm=norm, padding_mode='reflect')
            self.add_module(f'stem_{number}', stem)
        for number in range(1, fields.units + 1):
            self.add_module(f'unit_{number}', ShuffleUnit(fields.channels, groups))
        width = fields.scale_channels
        for number, rate in enumerate((0, *fields.rates), start=1):
            size = 3 if rate else 1
            scale = ConvNorm(fields.channels, width, size=size, groups=groups, rate=rate or 1, norm=norm)
            self.add_module(f'C_{number}', scale)
            decoder = Decoder(width, (width, width // 2), self.decoder_groups, stride, norm, fields.share_groups)
            self.add_module(f'A_{number}', decoder)
        merged = self.scales * (width + 3 * stride**2)
        self.main = Decoder(merged, widths[::-1], self.decoder_groups, stride, norm, fields.share_groups)
        if fields.dtype == 'float64':
            self.double()

    def forward(self, rainy: Tensor) -> Output:
        self.fields.check_size(*rainy.shape[-2:])
        if self.fields.dtype != 'bfloat16':
            return self._forward(rainy)
        with torch.autocast(rainy.device.type, torch.bfloat16):
            return self._forward(rainy)

    def _forward(self, rainy: Tensor) -> Output:
        x = (rainy - 0.5) / 0.5
        for name in (*(f'stem_{i}' for i in range(1, 4)), *(f'unit_{i}' for i in range(1, self.fields.units + 1))):
            x = self.get_submodule(name)(x)
        scales, images, aux_rain = [], [], []
        for number in range(1, self.scales + 1):
            features = self.get_submodule(f'C_{number}')(x)
            rain = self.get_submodule(f'A_{number}')(features).to(rainy.dtype)
            scales.append(features)
            images.append(space_to_depth(rainy - rain, self.stride).to(features.dtype))
            aux_rain.append(rain)
        return Output(self.main(self._merge(scales, images)).to(rainy.dtype), tuple(aux_rain))

    def _merge(self, scales: list[Tensor], images: list[Tensor]) -> Tensor:
        """The main decoder's input, from features (B, C, h, w) and images (B, 3 stride^2, h, w) of all scales."""
        if self.share_scales == 'features':  # channel c of all scales side by side; every group its part, and images
            parts = torch.stack(scales, dim=2).flatten(1, 2).chunk(self.decoder_groups, dim=1)
            layers = torch.cat(images, dim=1)
            own = [layers[:, group :: self.decoder_groups] for group in range(self.decoder_groups)]
            return torch.cat([piece for pair in zip(parts, own, strict=True) for piece in pair], dim=1)
        x = torch.cat([piece for pair in zip(scales, images, strict=True) for piece in pair], dim=1)
        return channel_shuffle(x, self.scales) if self.share_scales == 'all' else x


def mirrored(x: Tensor, dim: int, before: int, end: int) -> Tensor:
    """Pixels -before .. end - 1 along an axis of any length, one included, that goes on by reflection."""
    last = torch.arange(x.shape[dim], device=x.device)[-1:]
    position = torch.arange(-before, end, device=x.device).abs() % (2 * last).clamp(min=1)
    return x.index_select(dim, torch.minimum(position, 2 * last - position))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleaves `groups` equal blocks of channels; (B, C, H, W) -> same."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) -> (B, stride^2 C, H / stride, W / stride); channel (i * stride + j) * C + c is offset (i, j)."""
    if stride == 1:
        return x
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // stride, stride, width // stride, stride)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, stride**2 * channels, height // stride, width // stride)


def depth_to_space(x: Tensor, stride: int) -> Tensor:
    """(B, stride^2 C, H, W) -> (B, C, H stride, W stride); undoes `space_to_depth`."""
    if stride == 1:
        return x
    batch, depth, height, width = x.shape
    x = x.reshape(batch, stride, stride, depth // stride**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, depth // stride**2, height * stride, width * stride)


def quasi_sparsity(rain: Tensor, rainy: Tensor, filters: str) -> Tensor:
    """Sum over filters and both layers of absolute responses on valid positions, per element. Eqs. (8), (9)."""
    loss = rain.new_zeros(())
    for kernel in priors.FILTERS[filters]:
        rows, columns = kernel.shape
        weight = torch.as_tensor(kernel.copy(), dtype=rain.dtype, device=rain.device)
        for layer in (rain, rainy - rain):
            if layer.shape[2] >= rows and layer.shape[3] >= columns:
                windows = layer.unfold(2, rows, 1).unfold(3, columns, 1)  # exact, where a convolution may be in TF32
                loss = loss + (windows * weight).sum(dim=(-2, -1)).abs().sum()
    return loss / rain.numel()


def rain_map(rainy: Tensor, clean: Tensor, threshold: float) -> Tensor:
    """1 where a channel is brighter by more than `threshold`, in whole levels of 1/255; (B, 1, H, W). Eq. (11)."""
    level = math.floor(threshold * 255 + 1e-6)
    return ((rainy - clean).amax(dim=1, keepdim=True) > (level + 0.5) / 255).to(rainy.dtype)


def total_loss(output: Output, rainy: Tensor, clean: Tensor, settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of Eq. (13) and its terms; settings: the `loss` section of the configuration."""
    rain, scale = output.rain, float(settings.pixel_range)
    errors = torch.stack([rainy - layer - clean for layer in output.aux_rain])
    outside = 1 - rain_map(rainy, clean, settings.detail_threshold)
    terms = {
        'content': scale * functional.l1_loss(rainy - rain, clean),
        'quasi_sparsity': scale * quasi_sparsity(rain, rainy, settings.filters),
        'detail': scale * (outside * rain).abs().mean(),
        'auxiliary': scale**2 * errors.square().mean(),
    }
    loss = sum((settings[name] * term for name, term in terms.items() if settings[name]), rain.new_zeros(()))
    return loss, {**terms, 'total': loss}


def load(path: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> QSNet:
    """The network with the weights of a file of either framework, or of a name in the package, ready for inference.

    settings: of a bare state_dict, which does not say them.
    """
    return build(*load_weights(path, settings))


def build(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> QSNet:
    """The network with the variables of a linen one, ready for inference."""
    network = QSNet(settings)
    try:
        network.load_state_dict(to_torch(variables))
    except RuntimeError as error:
        fault = ' '.join(str(error).split())[:300]
        raise UserError(f'The variables are not those of a network of these settings: {fault}') from error
    return network.eval()


def set_precision(dtype: str) -> None:
    """PyTorch rounds products to TF32, on cards that can, for the setting 'tf32' alone.

    Networks leave it to who calls them, and PyTorch's own choice is TF32 in convolutions; `Derainer` sets it.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == 'tf32'


@contextlib.contextmanager
def _in_precision(dtype: str) -> Iterator[None]:
    """As after `set_precision` within, and as before it afterwards."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_precision(dtype)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


class Derainer:
    """Removes rain as `derain.Derainer` does, with a network of this module and every image in one piece."""

    def __init__(self, network: QSNet):
        self.network = network

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.restore(image)[0]

    def restore(self, image: np.ndarray, scales: bool = False) -> np.ndarray:
        """uint8 (1, H, W, 3), the restored image; with `scales` followed by those that C_1, C_2, ... alone decode."""
        images.check_picture(image)
        self.network.eval()
        height, width = image.shape[:2]
        canvas = images.to_float(derain.pad_to_stride(image, self.network.stride))
        parameter = next(self.network.parameters())
        rainy = torch.as_tensor(canvas.transpose(2, 0, 1)[None].copy()).to(parameter)
        with torch.no_grad(), _in_precision(self.network.fields.dtype):
            output = self.network(rainy)
        rain = torch.cat((output.rain, *output.aux_rain)) if scales else output.rain
        return images.to_uint8(canvas - rain.float().cpu().numpy().transpose(0, 2, 3, 1))[:, :height, :width]
