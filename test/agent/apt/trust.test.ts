/** What steers root must be root's alone: as a table, and with the real runner on a real private root. */
import { chmodSync, chownSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { distrusted, type Look, steeringPaths } from '../../../agent/apt/trust.ts'
import { createDescribe } from '../../../agent/facts.ts'
import { createMachine } from '../runner/machine.ts'

type Given = { readonly uid?: number; readonly gid?: number; readonly mode?: number }
const PATH = '/etc/smith/agent.toml'
const lookAt =
  (given: Readonly<Record<string, Given>>, real: Readonly<Record<string, string>> = {}): Look =>
  (path) => ({ uid: 0, gid: 0, mode: 0o755, path: real[path] ?? path, ...given[path] })

t.test('[RUN-57] a file is trusted when it and all folders above it are of root and writable for root alone', (t) => {
  const trusted: readonly Readonly<Record<string, Given>>[] = [
    {},
    { [PATH]: { gid: 998, mode: 0o640 } },
    { [PATH]: { gid: 0, mode: 0o664 } },
    { '/etc': { mode: 0o1777 } },
  ]
  for (const given of trusted) t.equal(distrusted([PATH], lookAt(given)), null, JSON.stringify(given))
  const distrustedOnes: readonly (readonly [Readonly<Record<string, Given>>, RegExp, RegExp])[] = [
    [{ [PATH]: { uid: 998 } }, /agent.toml belongs to user 998/, /chown root \/etc\/smith\/agent.toml$/],
    [{ [PATH]: { mode: 0o646 } }, /agent.toml may be written by anyone/, /chmod o-w/],
    [{ [PATH]: { mode: 0o1646 } }, /agent.toml may be written by anyone/, /chmod o-w/],
    [{ [PATH]: { gid: 998, mode: 0o660 } }, /agent.toml may be written by group 998/, /chmod g-w/],
    [{ '/etc/smith': { uid: 998 } }, /^\/etc\/smith belongs to user 998/, /chown root \/etc\/smith$/],
    [{ '/': { mode: 0o777 } }, /^\/ may be written by anyone/, /chmod/],
  ]
  for (const [given, message, remedy] of distrustedOnes)
    t.match(distrusted([PATH], lookAt(given)), { message, remedy }, JSON.stringify(given))
  const linked = lookAt({ '/srv/conf': { mode: 0o777 } }, { [PATH]: '/srv/conf/agent.toml' })
  t.match(distrusted([PATH], linked), { message: /^\/srv\/conf may/ }, 'where a link leads counts too')
  t.equal(
    distrusted([PATH], () => null),
    null,
    'what is not there steers nobody',
  )
  t.end()
})

t.test(
  '[RUN-57] the runner of root begins nothing while another could change what steers it',
  { skip: process.getuid?.() === 0 ? false : 'only root is steered by what is root’s' },
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
    })
    t.teardown(machine.close)
    machine.check('pre', 'fine', 'true')
    const pre = join(machine.config.checksDir, 'pre')
    const sources = join(machine.root.sourcesDir, 'prod.sources')
    const planned = await machine.plan()
    const bad: readonly (readonly [string, spoil: () => void, mend: () => void])[] = [
      [machine.config.file, () => chmodSync(machine.config.file, 0o666), () => chmodSync(machine.config.file, 0o644)],
      [sources, () => chownSync(sources, 65_534, 0), () => chownSync(sources, 0, 0)],
      [join(pre, 'fine'), () => chmodSync(join(pre, 'fine'), 0o777), () => chmodSync(join(pre, 'fine'), 0o755)],
      [pre, () => chmodSync(pre, 0o777), () => chmodSync(pre, 0o755)],
      [
        machine.archive.keyFile,
        () => chmodSync(machine.archive.keyFile, 0o666),
        () => chmodSync(machine.archive.keyFile, 0o644),
      ],
    ]
    const { order, grant } = machine.grantFor(planned)
    machine.drop(order, grant)
    const describe = createDescribe({ ...machine.config, runMode: 'systemd' }, machine.disk)
    for (const [path, spoil, mend] of bad) {
      spoil()
      t.match(distrusted(steeringPaths(machine.disk, machine.config)), { subject: path })
      t.match(describe().impediment, { subject: path }, 'the agent says so too')
      t.equal(await machine.startRunner().ended, 2, path)
      t.notOk(existsSync(machine.files(order).fate), 'the grant is not claimed')
      mend()
    }
    t.equal(await machine.startRunner().ended, 0)
    t.match(machine.resultOf(order), { outcome: 'succeeded' }, 'when all is mended it goes on')
  },
)
