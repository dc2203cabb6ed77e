"""Every flag of the command line: its default and what it means. `main` says which verb reads which."""

from absl import flags

from qsnet_jax.command_line import Flag

FLAGS = {
    'workdir': Flag(flags.DEFINE_string, None, 'Folder of the run; runs/NAME for --config=NAME.'),
    'weights': Flag(flags.DEFINE_string, None, 'A weights file (.safetensors, .pth), or default, light or heavy.'),
    'checkpoint': Flag(flags.DEFINE_string, 'latest', 'latest, best (by validation) or a step.'),
    'framework': Flag(
        flags.DEFINE_enum,
        'jax',
        'torch restores with the PyTorch twin, on the CPU, and writes to eval-torch.',
        {'enum_values': ['jax', 'torch']},
    ),
    'input': Flag(flags.DEFINE_string, None, 'A photo, in derain also a video, or a folder of them.'),
    'output': Flag(flags.DEFINE_string, None, 'Folder for the results, under the same names.'),
    'tile': Flag(
        flags.DEFINE_integer,
        None,
        'Side in pixels of the tiles of larger images; else 512, and in derain by free memory.',
        {'lower_bound': 1},
    ),
    'dtype': Flag(
        flags.DEFINE_enum,
        None,
        'Computes in this; else in float32, whatever training computed in.',
        {'enum_values': ['float32', 'tf32', 'bfloat16']},
    ),
    'runtime': Flag(
        flags.DEFINE_enum,
        'jax',
        'What runs the network; the others do on CPUs, in float32 (extra [runtimes]).',
        {'enum_values': ['jax', 'onnxruntime', 'openvino']},
    ),
    'layers': Flag(flags.DEFINE_bool, False, 'Also writes what was removed, as NAME.rain.png beside each photo.'),
    'restored': Flag(flags.DEFINE_string, None, "Folder of a program's results, or FOLDER/PATTERN with one *."),
    'clean': Flag(flags.DEFINE_string, None, 'Folder of the true images, or FOLDER/PATTERN.'),
    'rainy': Flag(flags.DEFINE_string, None, 'Folder of the rainy images, or FOLDER/PATTERN.'),
    'name': Flag(flags.DEFINE_string, None, 'Names the files.'),
    'dataset': Flag(flags.DEFINE_string, None, 'What config.data.eval calls these images, as rain100h.'),
    'luma': Flag(
        flags.DEFINE_enum,
        'exact',
        "rounded counts Y in whole levels, as MATLAB's uint8 images.",
        {'enum_values': ['exact', 'rounded']},
    ),
    'border': Flag(flags.DEFINE_integer, 0, 'Pixels at each side that do not count.', {'lower_bound': 0}),
    'against': Flag(flags.DEFINE_string, None, 'Another method, a folder or weights, compared in pairs by image.'),
    'figure': Flag(flags.DEFINE_string, 'all', "Of the paper's: 1, 2, 6 to 11, as in 1,8; all that the inputs allow."),
    'methods': Flag(flags.DEFINE_string, 'default', 'Weights, runs or folders of results: light,theirs=out/*_x.png.'),
    'count': Flag(flags.DEFINE_integer, 2, 'Photos shown, the first ones.', {'lower_bound': 1}),
    'crop': Flag(flags.DEFINE_string, None, 'What is shown of each photo: LEFT,TOP,WIDTH,HEIGHT.'),
    'overwrite': Flag(
        flags.DEFINE_bool,
        False,
        'Replaces files in --output that are no results, or of other photos, and does again what is done already.',
    ),
    'port': Flag(
        flags.DEFINE_integer,
        None,
        'Of the page; the first free one from 7860 where none is given.',
        {'lower_bound': 1, 'upper_bound': 65535},
    ),
    'overlap': Flag(flags.DEFINE_bool, False, 'Also finds backgrounds that training and evaluation share.'),
    'results': Flag(flags.DEFINE_string, 'results', 'Folder for rows and figures.'),
    'distributed': Flag(
        flags.DEFINE_string,
        None,
        'Several processes as one; auto (Slurm and other clusters) or HOST:PORT,PROCESSES,INDEX.',
    ),
    'only': Flag(flags.DEFINE_string, None, 'These variants alone, as in V1,V2.'),
    'compilation_cache': Flag(
        flags.DEFINE_string,
        None,
        'Folder that keeps what XLA compiled for the next start, or off; else ~/.cache/qsnet_jax.',
    ),
    'verbosity': Flag(flags.DEFINE_integer, None, 'Of the libraries below: 0 for all that they tell.'),
}
