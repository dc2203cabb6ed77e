"""Every field there is, once; all other configs only override. Left as it is, it is the paper's recipe.

Lists of names (`data.train`, `data.eval`) are written `a,b`; training sources take weights: `drawn_light:2,pairs:1`.
"""

from ml_collections import config_dict


def get_config():
    config = config_dict.ConfigDict()
    config.seed = 0  # 0 to 2**63 - 1; everything random follows: initial parameters, order, crops, drawn rain
    config.note = ''  # kept with the weights: the licence of the data, say
    _network(config)
    _loss(config)
    _data(config)
    _training(config)
    return config


def _network(config):
    # Sec. 4.1. The paper fixes 12 units, rates and the number of scales; the rest is our reading.
    config.model = config_dict.ConfigDict()
    config.model.channels = 132  # encoder width, a multiple of 4 x groups; stem and main decoder follow from it
    config.model.groups = 3  # of every group convolution
    config.model.units = 12  # ShuffleNet units in the encoder
    config.model.scale_channels = 66  # width of each scale, a multiple of 2 x groups
    config.model.rates = (1, 2, 4, 6)  # of the atrous convolutions C_2, C_3, ...; C_1 is pointwise
    config.model.encoder_stride = 1  # 1 as printed; 2 or 4 (sibling code): after the first convolution at 1/2 or 1/4
    config.model.norm = 'batch'  # outside the units: 'batch', 'instance' (sibling code; tiles then differ) or 'none'
    config.model.share_groups = True  # shuffles inside the decoders; Table 5
    # Exchange between scales before the main decoder; Table 5: 'features', 'all' (with the restored images) or 'none'.
    config.model.share_scales = config_dict.FieldReference('features', field_type=object)
    config.model.decoder_groups = config_dict.placeholder(
        int
    )  # of the decoders' convolutions; default: groups; 1: none
    # Of the computation, in training and evaluation: 'float32', 'tf32' (its products in 10 bits on GPUs), 'bfloat16' or
    # 'float64' (needs JAX_ENABLE_X64).
    config.model.dtype = 'float32'


def _loss(config):
    # Eqs. 8-13: weights as printed. Each term is a sum over positions, divided by the images' number of values.
    config.loss = config_dict.ConfigDict()
    config.loss.content = 1.0  # lambda_C, Eq. 10
    config.loss.quasi_sparsity = 1e-3  # lambda_Q, Eq. 9
    config.loss.detail = 1e-4  # lambda_D, Eq. 11
    config.loss.auxiliary = 1e-2  # lambda_A, Eq. 12
    config.loss.filters = 'derivative'  # of Eq. 9: 'derivative' (first and second order) or 'sobel'
    config.loss.pixel_range = 1.0  # images are in [0, this] inside the loss: 1 or 255; changes the balance of Eq. 12
    config.loss.detail_threshold = 0.0  # tau of the rain map in [0, 1]: 0 for lossless pairs, 8 / 255 for JPEG pairs


def _data(config):
    # A name is drawn_light, drawn_heavy or drawn_wide (rain drawn on photos that come with scikit-image and
    # matplotlib; with /SUB on those of that folder below `root`), pairs or layers (files of your own under `root`;
    # pairs/SUB is the sub-folder SUB; layers/A+B puts any layer of B on any background of A), a public set (rain100h,
    # rain100l, rain_train_h, rain_train_l, rain12, rain800, rain1200, rain1400, rain13k, ddc, spa; with /SPLIT another
    # split than train or test), or test_i, test_ii, test_iii_stand_in.
    config.data = config_dict.ConfigDict()
    config.data.train = config_dict.FieldReference('drawn_light,drawn_heavy', field_type=object)
    config.data.eval = config_dict.FieldReference('drawn_light,drawn_heavy', field_type=object)
    # What a run watches, and chooses the best checkpoint by: 'held_out', scenes of the training sources that are left
    # out of training, or names as in `eval`, which is scored once, at the end.
    config.data.validation = config_dict.FieldReference('held_out', field_type=object)
    config.data.validation_share = 0.05  # held_out: of all scenes, by the hash of their names; at least one
    config.data.root = config_dict.placeholder(str)  # folder of pairs and layers, of a set's files, or of several sets'
    config.data.tfds_dir = config_dict.placeholder(
        str
    )  # of prepared public sets; default: $TFDS_DATA_DIR or TFDS's own
    config.data.partial = False  # public sets: accept other numbers of pairs than the publisher's
    config.data.exclude = config_dict.placeholder(object)  # evaluation sets whose backgrounds are left out of training
    # Patterns of files under root, each with one *, which pairs them: 'input/*.png'. Where several rainy files share a
    # clean one, + stands for their number: 'input/*_+.png'.
    config.data.rainy = config_dict.placeholder(str)  # of the rainy files
    config.data.clean = config_dict.placeholder(str)  # of the clean ones
    config.data.layer = config_dict.placeholder(str)  # of the rain layers
    config.data.any_layer = False  # layers: put any layer on any background in training, not only its own
    config.data.vary_layers = 1.0  # layers/A+B: random factors of size and brightness in training, 1 / this to this
    config.data.turn_layers = 0.0  # layers/A+B: random rotation in training, up to so many degrees
    config.data.join_layers = 0.0  # layers/A+B: share of the training samples on which two layers lie together
    config.data.hold_out = 3  # layers/A+B: one in so many is for evaluation alone if B has no val or test; 0: none
    config.data.crop = 256  # pixels; training patches are crop x crop, small images are padded by reflection
    config.data.batch = 8  # global, over all devices and processes; not in the paper (sibling code: 1)
    config.data.flip = False  # random horizontal flips
    config.data.brightness = 0.0  # pairs are multiplied by a random factor in 1 - this to 1 + this
    config.data.cache_gib = 4.0  # decoded images kept in memory up to this; beyond it they are decoded each time
    config.data.threads = 2  # that read, crop and draw batches ahead
    config.data.prefetch = 16  # batches read ahead


def _training(config):
    # Sec. 5.1.
    config.train = config_dict.ConfigDict()
    config.train.steps = 100_000  # not in the paper
    config.train.optimizer = 'adam'  # the paper's; 'muon': orthogonal updates of kernels as matrices, Adam of the rest
    config.train.learning_rate = 1e-3
    config.train.clip = 0.0  # largest norm of the gradients, which are scaled down to it; 0: any
    # Decay per step of averaged weights, .999 say, which are scored and kept; first (1 + step) / (10 + step), if less.
    config.train.average = 0.0  # 0: none
    # Gradients compute the encoder's units anew: the paper's recipe then takes 10.2 GiB on an H100 in tf32, not 17.2.
    config.train.remat = False
    config.train.start_from = config_dict.placeholder(str)  # weights (a file, or default) to go on from: fine-tuning
    config.train.rain_gain = 1.0  # factor on the initial kernels of the six rain layers; small: starts at no rain
    # 'plateau': the paper's "when the loss stops improving", against the best window, with patience; 'previous': the
    # sibling code's, against the window before, without; 'cosine' (to zero at the last step); 'constant'.
    config.train.schedule = 'plateau'
    config.train.plateau_factor = 0.1  # the paper's
    config.train.plateau_window = 1000  # steps whose mean loss is compared (sibling code: an epoch)
    config.train.plateau_patience = 5  # windows without improvement before the factor is applied; not for 'previous'
    config.train.plateau_floor = 1e-3  # smallest multiple of learning_rate
    config.train.log_every = 50  # steps per line of metrics.jsonl; its values are means over them
    config.train.eval_every = 1000  # steps between validations
    config.train.eval_sets = 1  # a validation scores this many of its sets, from the first; 'best' is by their mean
    config.train.eval_images = 20  # images of each set that a validation scores
    config.train.checkpoint_every = 1000
    config.train.keep = 3  # latest checkpoints kept, beside the best by validation PSNR

    # The sparsity study, Sec. 3.1 (--mode=sparsity). The paper gives neither rule nor bins nor filter.
    config.sparsity = config_dict.ConfigDict()
    config.sparsity.bins = 64  # of the log-histograms; of signed responses one more where even
    config.sparsity.filter = 'd_x'  # of the figures, of contrast and of the verdict: 'd_x', 'd_y', 'd_xx' or 'd_yy'
    config.sparsity.response = 'absolute'  # or 'signed': a histogram with two sides, each with a chord of its own
    # Sets, or folders of photos (written ./A or /A), that are studied one by one and then as one share with these
    # weights: './real:1,rain1400:9' is as the paper's, over 1,000 real and 9,000 synthetic images.
    config.sparsity.pool = config_dict.placeholder(str)
    return config
