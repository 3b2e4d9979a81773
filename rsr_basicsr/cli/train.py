"""Train a network with BasicSR's trainer, in the working directory."""

from rsr_basicsr.pipeline import run_pipeline


def add_arguments(parser):
    parser.add_argument('-opt', required=True, metavar='FILE', help='options file')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
    parser.add_argument('--auto_resume', action='store_true', help='go on from the newest training state')
    parser.add_argument('--debug', action='store_true', help='validate and save after a few iterations')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    parser.add_argument('--force_yml', nargs='+', metavar='KEY=VALUE', help='for example train:total_iter=1000')


def run(args):
    run_pipeline('train', args.opt, args.argv)
    return 0
