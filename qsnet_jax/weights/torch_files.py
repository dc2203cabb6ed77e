"""Weights as PyTorch's users keep them: a state_dict of the PyTorch twin as .pth, .pt or safetensors.

Names and shapes are those of `peers.torch_twin.QSNet`. PyTorch is needed for tensors, .pth and .pt; safetensors
are read and written without.
"""

import collections
import contextlib
import io
import os
import pathlib
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from qsnet_jax import UserError, storage
from qsnet_jax.weights import checks, reading
from qsnet_jax.weights.reading import Tensors, fault

if TYPE_CHECKING:
    from torch import Tensor

MARK = 'qsnet_jax torch weights 1'
SUFFIXES = ('.pth', '.pt')  # PyTorch's own format
SAFE_PICKLES = (2, 10)  # from this version on no known file breaks out of `weights_only=True`
PICKLE_LIMIT = 2**20  # bytes, and a quarter as many steps, of the table in a .pth file
# All that a state_dict of plain tensors is made of. PyTorch's own list is longer: some of it makes arrays of any size
# out of a few bytes, or tensors that are not what they look like.
NEEDED = ('collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_parameter')

# The one mapping between the frameworks: last parts of a path in a linen tree, and of a name in a state_dict.
_NAMES = (
    ('kernel', 'weight'),
    ('norm/batch/scale', 'norm.weight'),
    ('norm/batch/bias', 'norm.bias'),
    ('norm/batch/mean', 'norm.running_mean'),
    ('norm/batch/var', 'norm.running_var'),
    ('norm/instance/scale', 'norm.weight'),
    ('norm/instance/bias', 'norm.bias'),
    ('norm/bias', 'conv.bias'),  # without norm
    ('rain/bias', 'rain.bias'),
)


def torch_name(path: str) -> str:
    """'params/unit_1/reduce/conv/kernel' -> 'unit_1.reduce.conv.weight'."""
    inside = path.partition('/')[2]
    ours, theirs = next((names for names in _NAMES if inside.endswith(names[0])), ('', ''))  # of no network: as it is
    return inside.removesuffix(ours).replace('/', '.') + theirs


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a linen variable's counterpart: (k, k, in, out) -> (out, in, k, k)."""
    return (shape[3], shape[2], shape[0], shape[1]) if path.endswith('kernel') else shape


def _is_counter(name: str) -> bool:
    """Whether an entry only counts batches, which nothing here uses."""
    return name.endswith('num_batches_tracked')


def to_arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """state_dict of the twin from {'params', 'batch_stats'}, as NumPy arrays that are copies."""
    state: dict[str, np.ndarray] = {}
    for path, array in checks.flat(variables).items():
        name = torch_name(path)
        array = array.transpose(3, 2, 0, 1) if path.endswith('kernel') and array.ndim == 4 else array
        state[name] = np.array(array, order='C')
        if name.endswith('running_mean'):  # PyTorch counts batches, and uses the count only without a momentum
            state[name.removesuffix('running_mean') + 'num_batches_tracked'] = np.zeros((), np.int64)
    return state


def to_torch(variables: Mapping[str, Any]) -> 'dict[str, Tensor]':
    """state_dict of the twin from {'params', 'batch_stats'}; the tensors are copies."""
    torch = need_torch()
    return {name: torch.from_numpy(array) for name, array in to_arrays(variables).items()}


def from_torch(state: 'Mapping[str, Tensor]', settings: Mapping[str, Any]) -> dict[str, Any]:
    """{'params', 'batch_stats'} from a state_dict of the twin.

    Raises UserError that names missing, extra and wrongly shaped entries.
    """
    return from_tensors('The state_dict', _tensors('The state_dict', state, {}), settings)[0]


def from_tensors(
    source: object, tensors: Tensors, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, settings) of the linen network from an opened state_dict. source: what messages call it."""
    shapes = {name: shape for name, shape in tensors.shapes.items() if not _is_counter(name)}
    kept = tensors._replace(shapes=shapes, dtypes={name: tensors.dtypes[name] for name in shapes})
    arrays, settings = checks.read(source, kept, settings, torch_name, torch_shape)
    return checks.variables(
        {path: array.transpose(2, 3, 1, 0) if path.endswith('kernel') else array for path, array in arrays.items()}
    ), settings


def save_weights(
    path: str | os.PathLike, variables: Mapping[str, Any], settings: Mapping[str, Any], record: Any = None
) -> None:
    """Writes a state_dict with its settings, as safetensors or, by the extension .pth or .pt, as PyTorch's own format.

    settings, record, and what is refused: as in `files.save_weights`.
    """
    path = storage.file_to_write(path)
    if path.suffix not in ('.safetensors', *SUFFIXES):
        raise UserError(f'{path} must end in .safetensors, .pth or .pt.')
    arrays = to_arrays(variables)
    tensors = {name: array for name, array in arrays.items() if not _is_counter(name)}
    metadata = checks.metadata(path, MARK, tensors, settings, record, torch_name, torch_shape)
    if path.suffix == '.safetensors':
        content = safetensors.numpy.save(arrays, metadata=metadata)
    else:
        file = io.BytesIO()
        need_torch().save({**metadata, 'state_dict': to_torch(variables)}, file)
        content = file.getvalue()
    with storage.writable(path.parent):
        storage.write_bytes(path, content)


def load_weights(
    path: str | os.PathLike, settings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads (variables, settings) of the linen network from a file of either framework, or from a bare state_dict.

    path: also the name of weights that come with the package. settings: of a file that does not hold them. Pickles are
    read with `weights_only=True` only. Raises UserError that names missing, extra and wrongly shaped entries.
    """
    path = reading.find_weights(path)
    with _open(path) as tensors:
        mark = tensors.metadata.get('format')
        if mark in (MARK, reading.MARK):
            settings = reading.json_object(path, 'settings', tensors.metadata.get('settings'))
        elif settings is None:
            raise fault(path, ' holds no settings of its network; see "In PyTorch" of WEIGHTS.md.')
        if mark != reading.MARK:
            return from_tensors(path, tensors, settings)
        arrays, settings = checks.read(path, tensors, settings)
        return checks.variables(arrays), settings


def load_record(path: str | os.PathLike) -> dict[str, Any]:
    """The provenance stored in a file of `load_weights`."""
    path = reading.find_weights(path)
    with _open(path) as tensors:
        return reading.record_of(path, tensors.metadata)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Tensors]:
    """A file's metadata and its state_dict."""
    if path.suffix == '.safetensors':
        with reading.open_tensors(path) as tensors:
            yield tensors
        return
    content, torch = _plain_archive(path), need_torch()
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < SAFE_PICKLES:
        raise fault(path, f': PyTorch {torch.__version__} does not read it safely; update it (extra [torch]).')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of what an unusual file may mean
            loaded = torch.load(content, map_location='cpu', weights_only=True)
    except Exception as error:  # of archives and pickles that strangers made, all kinds
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise fault(path, f' is not a readable state_dict: {reason}') from error
    state = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else None
    yield _tensors(path, state, loaded if isinstance(loaded, dict) and state is not loaded else {})


def _plain_archive(path: pathlib.Path) -> io.BytesIO:
    """What torch.load needs of a .pth file, as an archive of our own: each entry once, none larger than it says.

    Raises UserError for archives beyond the limits, before anything is inflated, and for tables that call for more than
    plain tensors.
    """
    limit = reading.DATA_LIMIT + reading.HEADER_LIMIT
    reading.check_file(path, limit)
    content = io.BytesIO()
    try:
        reading.refuse_others(path)
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(content, 'w') as target:
            entries = source.infolist()
            folders = {entry.filename.partition('/')[0] for entry in entries}
            size = sum(entry.file_size for entry in entries)
            doubles = [name for name, count in collections.Counter(source.namelist()).items() if count > 1]
            if size > limit:
                raise fault(path, f' unpacks to {size:,} bytes; weights have {limit:,} at most.')
            if len(entries) > 2 * reading.COUNT_LIMIT or len(folders) != 1 or doubles:
                raise fault(path, ' is not a readable state_dict: its archive is not of the kind that PyTorch writes.')
            for entry in entries:
                if entry.filename.endswith('/data.pkl') and entry.file_size > PICKLE_LIMIT:
                    raise fault(path, f' has a table of {entry.file_size:,} bytes; {PICKLE_LIMIT:,} are the most.')
                data = source.read(entry)
                if entry.filename.endswith('/data.pkl'):
                    _check_pickle(path, data)
                target.writestr(entry.filename, data)
    except UserError:
        raise
    except PermissionError as error:
        raise reading.unreadable(path, error) from error
    except Exception as error:  # zipfile raises nine kinds, and NotImplementedError is one of them
        raise fault(path, f' is not a readable state_dict (an archive of PyTorch 1.6 or later): {error}.') from error
    content.seek(0)
    return content


def _check_pickle(path: pathlib.Path, data: bytes) -> None:
    """Reads a pickle's steps, runs none, and raises UserError where they name more than plain tensors need."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name in ('INST', 'STACK_GLOBAL', 'EXT1', 'EXT2', 'EXT4'):
            raise fault(path, f' is not a readable state_dict: its table has a step {operation.name}.')
        is_storage = str(argument).startswith('torch ') and str(argument).endswith('Storage')
        if operation.name == 'GLOBAL' and argument not in NEEDED and (not is_storage or 'ypedStorage' in str(argument)):
            raise fault(path, f' is not a readable state_dict: it holds {argument}, and only plain tensors are read.')
        if count > PICKLE_LIMIT // 4:
            raise fault(path, f' is not a readable state_dict: its table has more than {PICKLE_LIMIT // 4:,} steps.')


def _tensors(source: object, state: Any, metadata: dict[str, Any]) -> Tensors:
    """A state_dict as an opened file. Raises UserError where it holds other things than plain tensors."""
    torch = need_torch()
    table = dict(state) if isinstance(state, Mapping) else {}
    if not table or not all(isinstance(value, torch.Tensor) for value in table.values()):
        raise fault(source, ' holds no state_dict, a table of tensors by name.')
    table = {str(name): value.detach() for name, value in table.items()}
    odd = [name for name, value in table.items() if value.layout != torch.strided or value.is_meta]
    if odd:
        raise fault(source, f' holds sparse tensors, or some without data: {", ".join(odd[:10])}.')
    names = {name: str(value.dtype).removeprefix('torch.') for name, value in table.items()}

    def get(name: str) -> np.ndarray:
        value = table[name].cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

    shapes = {name: tuple(value.shape) for name, value in table.items()}
    return Tensors(metadata, shapes, {name: checks.FLOATING.get(each, each) for name, each in names.items()}, get)


def need_torch() -> Any:
    """PyTorch, which nothing else here needs."""
    try:
        import torch
    except ImportError as error:
        raise UserError('This needs PyTorch: pip install torch, 2.10 or newer (extra [torch]).') from error
    return torch
