"""``exitbits train``: train an early-exit model and write its checkpoint and card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from search.errors import BadInput
from studies.commands.common import add_threads, check_writable, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits train``."""
    parser.add_argument(
        "recipe",
        choices=("fashion", "fashion-deep", "imagefolder"),
        help="what to train on: Fashion-MNIST's "
        "published files, or folders of images by class (DIR/train/CLASS/*.jpg)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the image files (required)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.safetensors",
        help="checkpoint to write (default RECIPE.safetensors); its card is the "
        "same name ending in .json",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="passes over the training images (default 40 for fashion, 20 for fashion-deep, else "
        "10)",
    )
    parser.add_argument(
        "--exit-epochs",
        type=int,
        metavar="N",
        help="the backbone learns by its last exit alone, and its other exits N passes longer, on "
        "the frozen backbone; 0 for all at once (default 3 for fashion-deep, else 0)",
    )
    parser.add_argument(
        "--distillation",
        type=float,
        metavar="WEIGHT",
        help="of the pull of every exit's answer towards the last one's, 0 for none (default 0.5)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="images a step (default 64 for imagefolder, else 256)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="peak learning rate (default 0.0005 for imagefolder, else 0.002)",
    )
    parser.add_argument(
        "--backbone-rate",
        type=float,
        metavar="SHARE",
        help="share of that rate for the backbone, 0 to 1; 0 freezes it (default 0.1 with "
        "--pretrained, else 1)",
    )
    parser.add_argument(
        "--augment",
        choices=("none", "light", "strong"),
        help="how much training images are changed (default light with --pretrained, else strong)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of weights, order and augmentation (default %(default)s)",
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="do not compile the training step (starts faster, runs slower)",
    )
    parser.add_argument(
        "--model",
        default="vit_tiny_patch16_224",
        metavar="TIMM",
        help="imagefolder: any timm VisionTransformer (default %(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="imagefolder: start from timm's pretrained weights, downloaded, or from a "
        "safetensors file of timm's or exitbits' own",
    )
    parser.add_argument(
        "--weights-prefix",
        default="",
        metavar="PREFIX",
        help="imagefolder: what is taken off the names in that file (default nothing)",
    )
    parser.add_argument(
        "--img-size",
        type=positive,
        metavar="PIXELS",
        help="imagefolder: side of the images that the model reads (default the model's own)",
    )
    parser.add_argument(
        "--leave-out-duplicates",
        action="store_true",
        help="imagefolder: an image that lies in two splits is kept in one instead of refused",
    )
    parser.add_argument(
        "--exits",
        metavar="B,B,...",
        help="imagefolder: exit after these blocks (default every second block)",
    )
    parser.add_argument("--head", help="exit head: linear or mlp (default linear)")
    parser.add_argument(
        "--device", help="where to train (default a GPU where there is one, else cpu)"
    )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint")


def run(args: argparse.Namespace) -> int:
    """Train and write the checkpoint; progress goes to stderr, the card's path to stdout."""
    output: Path = args.output or Path(f"{args.recipe}.safetensors")
    if output.suffix != ".safetensors":
        raise BadInput(f"output {str(output)!r} must end in .safetensors")
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not args.force:
            raise BadInput(f"{str(path)!r} exists: name another with -o, or replace it by --force")
    check_writable(output, "-o")
    if isinstance(args.pretrained, str) and not Path(args.pretrained).is_file():
        raise BadInput(f"no file {args.pretrained!r}: --pretrained names a safetensors file")
    if args.weights_prefix and not isinstance(args.pretrained, str):
        raise BadInput("--weights-prefix is of a file's names: give --pretrained FILE too")
    if not args.data.is_dir():
        raise BadInput(f"no folder {str(args.data)!r}: --data names the folder of the images")

    from search.training.recipes import Request, train_recipe
    from studies.work.opening import refuse_unknown_device

    if args.device:
        refuse_unknown_device(args.device)

    overrides = {
        "epochs": args.epochs,
        "exit_epochs": args.exit_epochs,
        "distillation": args.distillation,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "backbone_rate": args.backbone_rate,
        "seed": args.seed,
        "compile": False if args.no_compile else None,
    }
    request = Request(
        args.data,
        timm_model=args.model,
        pretrained=Path(args.pretrained) if isinstance(args.pretrained, str) else args.pretrained,
        weights_prefix=args.weights_prefix,
        img_size=args.img_size,
        augmentation=args.augment,
        exits=_parse_exits(args.exits),
        head=args.head or "linear",
        duplicates="leave-out" if args.leave_out_duplicates else "refuse",
        device=args.device,
    )
    card = train_recipe(
        args.recipe,
        request,
        output,
        overrides={name: value for name, value in overrides.items() if value is not None},
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{output} (digest {card.digest[:12]})")
    return 0


def _parse_exits(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"exits {text!r} must be block numbers such as 3,6,9,12") from None
