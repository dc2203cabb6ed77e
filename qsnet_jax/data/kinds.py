"""Names of files and folders that hold no picture to read: other kinds of pictures, and what systems keep."""

import re

# Photos too, but of kinds that are not read: reported, not passed over. Raw ones hold a small preview that Pillow would
# take for the photo.
RAW = tuple(
    '.3fr .ari .arw .bay .bmq .cap .cine .cr2 .cr3 .crw .cs1 .dcr .dcs .dng .eip .erf .fff .gpr .iiq .k25 .kc2 .kdc '
    '.mdc .mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .r3d .raf .raw .rdc .rw2 .rwl .rwz .sr2 .srf .srw .sti '
    '.x3f'.split()
)
REFUSED = (
    *'.gif .apng .heic .heics .heif .heifs .hif .avif .avifs .jxl .jxr .wdp .hdp .mpo .jps .jph .jls'.split(),
    *'.psd .psb .xcf .kra .exr .hdr .pfm .pam .pcx .sgi .ras .qoi .dds .icns .flif .bpg'.split(),
    *RAW,
)
# Names, in any case, that Macs, network drives, Windows and Unix give.
SYSTEM = re.compile(
    r'__macosx|network trash folder|temporary items|thevolumesettingsfolder|thefindbycontentfolder'
    r'|@(eadir|__thumb|tmp|recycle|recently-snapshot|sharesnap)(@tmp)?|#recycle|#snapshot|~snapshot'
    r'|\$recycle\.bin|recycler|system volume information|found\.\d{3}|~\$.*|lost\+found',
    re.IGNORECASE | re.DOTALL,
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or of a system."""
    return name.startswith('.') or SYSTEM.fullmatch(name) is not None
