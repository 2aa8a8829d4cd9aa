/** The packages of the demo: what is installed at first, and what the known-good repository has. */
import type { PackageSpec } from '../archive/builder.ts'

/** At work long enough that a person sees the lines go by. */
const LINES = String.raw`echo "example-web: migrating settings"; for n in 1 2 3; do echo "example-web: step $n of 3"; sleep 0.2; done`

export const INSTALLED: readonly PackageSpec[] = [
  { name: 'libexample1', version: '1.0-1', files: { '/usr/lib/libexample.so.1': 'one\n' } },
  {
    name: 'example-web',
    version: '1.0-1',
    depends: 'libexample1',
    conffiles: { '/etc/example-web.conf': 'port = 80\n' },
  },
]
/** Only on the machine whose first try fails. */
export const FLAKY_INSTALLED: PackageSpec = { name: 'example-cache', version: '2.3-1' }

export const PUBLISHED: readonly PackageSpec[] = [
  { name: 'libexample1', version: '1.1-1', files: { '/usr/lib/libexample.so.1': 'two\n' } },
  {
    name: 'example-web',
    version: '1.1-1',
    depends: 'libexample1',
    conffiles: { '/etc/example-web.conf': 'port = 80\n' },
    postinst: LINES,
  },
  {
    name: 'example-cache',
    version: '2.4-1',
    behaviours: [
      {
        type: 'fail-once',
        marker: 'run/example-cache.tried',
        message: 'example-cache: the cache is locked by another program',
      },
    ],
  },
]
export const BUILD = '725'
export const MACHINES = [
  'prod-dal10-carrier3-worker-1',
  'prod-dal10-carrier3-worker-2',
  'prod-dal10-carrier3-worker-10',
  'prod-dal10-carrier4-worker-1',
] as const
export const FLAKY_MACHINE = 'prod-dal10-carrier3-worker-2'
export const REQUEST = 'prod machines: prod-dal10-carrier*-worker-* outage:0'
