/**
 * What the user `smith` can do on a booted host, as the owner of a compromised agent would: forged, tampered, captured
 * and replayed grants, planted downloads, an inbox full of garbage, and whatever else that user can reach. The runner
 * does what a signed, fresh grant says and nothing else, and the next good order works. Skipped by name where no host
 * can be booted.
 */
import { createPrivateKey, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { GRANT_SIGNATURE_PREFIX, type GrantPayload, type SignedGrant } from '../../protocol/files.ts'
import { online } from '../site/harness.ts'
import { whyNoHosts } from './base.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import {
  checkRun,
  describeStatus,
  publishBuild,
  startHostSite,
  startPatch,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { type HostSite } from './site.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

const INBOX = '/var/lib/smith/inbox'
/** Where a health report is asked for: a name in there is all that counts (RPT-15). */
const ASKS = '/var/lib/smith/asks'
const AGENT = '/var/lib/smith/agent'
const RUN = '/var/lib/smith/run'
const AS_SMITH = ['setpriv', '--reuid=smith', '--regid=smith', '--clear-groups']

/** A host, and how the user smith acts on it. */
type Given = {
  readonly site: HostSite
  readonly host: Host
  readonly build: string
  readonly version: string
  readonly asSmith: (script: string, input?: string) => Promise<string>
}

t.test('[HST-60] the user smith gets nothing from root but what a signed, fresh grant says', { skip }, async (t) => {
  const site = await startHostSite(t, { limits: 'prefetch_ahead = 0' })
  const host = await site.addHost('prod-dal10-hostile1-worker-1', {
    installed: [await site.build({ name: 'hello', version: '1.0' })],
  })
  const asSmith = (script: string, input = '') => host.must([...AS_SMITH, 'sh', '-euc', script], { input })
  const only = process.env['SMITH_HOSTS_ONLY']
  // They follow one another on one host, which shows by itself that each left it in order.
  for (const [index, { what, body }] of [...reachable, ...grants, ...downloads, ...entries].entries()) {
    if (only !== undefined && !what.includes(only)) continue
    const given = { site, host, build: String(800 + index), version: `1.${index + 1}`, asSmith }
    await t.test(what, (t) => body(t, given))
  }
})

type Scenario = { readonly what: string; readonly body: (t: Test, given: Given) => Promise<void> }

/** While root holds the runner's lock no runner is at work, so what the agent drops stays in the inbox. */
async function holdRunner({ host }: Given): Promise<() => Promise<void>> {
  await host.must(['systemd-run', '--unit=hold', 'flock', `${RUN}/runner.lock`, 'sleep', 'infinity'])
  return async () => void (await host.must(['systemctl', 'stop', 'hold']))
}

async function untilIdle({ host }: Given): Promise<void> {
  await until(
    'the inbox to be emptied and the runner to end',
    async () => {
      const left = await host.must(['sh', '-c', `ls -A ${INBOX} | grep -v '^[.]new-' | head -c 500`])
      const state = (await host.run(['systemctl', 'is-active', 'smith-run.service'])).stdout.trim()
      return left === '' && state === 'inactive'
    },
    600_000,
  )
}

/** A good order starts and ends well, the path unit is at work, and no runner ever failed. */
async function worksWell(t: Test, given: Given): Promise<void> {
  const { site, host, build, version } = given
  await publishBuild(site, build, [{ name: 'hello', version }])
  await succeeds(t, given, await startPatch(site, build, [host.name]))
}

async function succeeds(t: Test, { site, host, version }: Given, change: string): Promise<void> {
  const done = await untilSettled(site, change)
  t.equal(done.state, 'complete', describeStatus(done))
  t.equal(await versionOn(host, 'hello'), `ii ${version}`)
  await checkRun(t, site, change, host.name)
  t.equal((await host.must(['systemctl', 'is-active', 'smith-run.path'])).trim(), 'active')
  const failed = await host
    .must(['journalctl', '--no-pager', '--unit=smith-run', '--grep=runner failed', '--lines=3', '--quiet'])
    .catch(() => '')
  t.equal(failed.trim(), '', 'no runner failed')
}

const history = async (host: Host) =>
  (await host.has('/var/log/apt/history.log')) ? host.read('/var/log/apt/history.log') : ''

// --- what that user can reach at all --------------------------------------------------------------------------

/** Each is refused to the user smith; root can do it. */
const FORBIDDEN = [
  'systemctl start smith-run.service',
  'systemctl stop smith-run.path',
  'systemctl restart smith-agent.service',
  'systemctl kill smith-run.path',
  'systemctl daemon-reload',
  'systemctl mask --runtime smith-run.path',
  'systemctl set-environment NODE_OPTIONS=--require=/var/lib/smith/agent/evil.js',
  'systemctl set-property --runtime smith-run.service OOMPolicy=kill',
  'systemd-run --quiet id',
  'loginctl enable-linger smith',
  'timedatectl set-time 2030-01-01',
  'mv /var/lib/smith/inbox /var/lib/smith/other',
  'mv /var/lib/smith/agent /var/lib/smith/other',
  'rmdir /var/lib/smith/inbox',
  `rmdir ${ASKS}`,
  `touch ${RUN}/reports/00000000000000000000000000000000`,
  `touch ${RUN}/fence`,
  `touch ${RUN}/taken/grant-00000000000000000000000000000000.json`,
  `flock --nonblock ${RUN}/runner.lock true`,
]

/** What root's half loads, obeys or believes. */
const TRUSTED = '/usr/lib/smith-agent /etc/smith /etc/apt /etc/dpkg /etc/systemd /usr/lib/systemd /run/systemd/system'

const reachable: readonly Scenario[] = [
  {
    what: '[HST-61] the user smith can neither move a folder that the runner looks into, nor write what root obeys, nor ask systemd',
    body: async (t, { host, asSmith }) => {
      // So that there is a lock to be tried.
      await host.must(['systemctl', 'start', 'smith-run.service'])
      for (const command of FORBIDDEN) {
        const ran = await host.run([...AS_SMITH, 'sh', '-c', `cd /; ${command}`])
        t.not(ran.status, 0, `${command}: ${ran.stderr.trim()}`)
      }
      const owned = await asSmith(
        `find ${TRUSTED} ${RUN} /opt /var/lib/smith -not -type l -writable -not -path '${AGENT}*' -not -path '${INBOX}*' -not -path '${ASKS}*' 2>/dev/null || true`,
      )
      t.equal(owned, '', 'nothing there can be written by that user')
    },
  },
]

// --- grants ---------------------------------------------------------------------------------------------------

type Forged = { readonly name: string; readonly grant: unknown; readonly says: string }

/** The grant in the inbox, as whoever listens on the wire or reads the folder has it. */
async function capture({ host }: Given): Promise<{ readonly order: string; readonly grant: SignedGrant }> {
  const file = await until('the grant in the inbox', async () =>
    (await host.must(['ls', INBOX])).split('\n').find((name) => name.startsWith('grant-')),
  )
  const { grant } = JSON.parse(await host.read(`${INBOX}/${file}`)) as { grant: SignedGrant }
  return { order: file.slice('grant-'.length, -'.json'.length), grant }
}

/** As the coordinator itself would sign another payload: what it signed for other machines, times and orders. */
function resign(
  site: HostSite,
  { order, grant }: { order: string; grant: SignedGrant },
  changes: Partial<GrantPayload>,
) {
  const payload = JSON.parse(Buffer.from(grant.payload, 'base64').toString()) as GrantPayload
  const bytes = Buffer.from(JSON.stringify({ ...payload, order, ...changes }))
  const key = createPrivateKey(readFileSync(join(site.dir, 'coordinator/keys/order.key.pem')))
  const signature = sign(null, Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes]), key)
  return { ...grant, payload: bytes.toString('base64'), signature: signature.toString('base64') }
}

/** Every one is for an order that is not the one granted, or has no signature that holds. */
async function forgeries(given: Given, captured: { order: string; grant: SignedGrant }): Promise<Forged[]> {
  const { site, asSmith } = given
  const { order, grant } = captured
  const payload = JSON.parse(Buffer.from(grant.payload, 'base64').toString()) as GrantPayload
  const now = Date.now()
  let number = 0
  const signed = (says: string, changes: Partial<GrantPayload>, plan = grant.plan): Forged => {
    number += 1
    const other = String(number).padStart(32, '0')
    return { name: other, grant: { ...resign(site, { order: other, grant }, changes), plan }, says }
  }
  const changed = (changes: Partial<GrantPayload>) =>
    Buffer.from(JSON.stringify({ ...payload, ...changes })).toString('base64')
  const pem = await asSmith(`cat ${AGENT}/key.pem`)
  const own = sign(
    null,
    Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), Buffer.from(grant.payload, 'base64')]),
    createPrivateKey(pem),
  ).toString('base64')
  return [
    signed('it is for another machine', { machine: 'f'.repeat(32) }),
    signed('it came too late', { issuedAt: now - 700_000, startBy: now - 100_000 }),
    signed('it was issued in the future', { issuedAt: now + 3_600_000, startBy: now + 3_700_000 }),
    signed('good for longer than a grant may be', { startBy: now + 86_400_000 }),
    signed('the plan with it is not the one that was signed', {}, { ...grant.plan, installs: [] }),
    { name: order, grant: { ...grant, signature: own }, says: 'its signature does not hold' },
    { name: order, grant: { ...grant, signature: own, keyId: 'a'.repeat(64) }, says: 'was not enrolled with' },
    { name: order, grant: { ...grant, payload: changed({ outageMinutes: 30 }) }, says: 'its signature does not hold' },
    { name: order, grant: { ...grant, payload: changed({ attempt: 2 }) }, says: 'its signature does not hold' },
    { name: order, grant: { ...grant, payload: changed({ build: '1' }) }, says: 'its signature does not hold' },
    { name: 'e'.repeat(32), grant, says: 'it grants another order than its file name' },
  ]
}

const entryOf = (grant: unknown) => `${JSON.stringify({ type: 'grant', grant })}\n`

const grants: readonly Scenario[] = [
  {
    what: '[HST-63] a forged, tampered, early, late or foreign grant is refused, and the true one still runs',
    body: async (t, given) => {
      const { site, host, build, version, asSmith } = given
      const before = await history(host)
      const release = await holdRunner(given)
      await publishBuild(site, build, [{ name: 'hello', version }])
      const change = await startPatch(site, build, [host.name])
      const captured = await capture(given)
      await host.must(['systemctl', 'stop', 'smith-agent'])
      // The true one is withheld: it has authority, and whoever has it may use it, in its time and once.
      await asSmith(`mv ${INBOX}/grant-${captured.order}.json ${AGENT}/withheld`)
      await release()
      const all = await forgeries(given, captured)
      for (const { name, grant, says } of all) {
        await asSmith(`cat > ${INBOX}/grant-${name}.json`, entryOf(grant))
        await untilIdle(given)
        t.match((await host.read('/opt/smith-agent.log')).trim().split('\n').slice(-3).join('\n'), says)
      }
      t.equal(await history(host), before, 'apt did nothing')
      t.equal(
        await host
          .must(['sh', '-c', `grep -l '"claim"' ${RUN}/orders/*/fate || true`])
          .then((text) => text.includes(captured.order)),
        false,
      )
      // What no coordinator knows of would only alarm it.
      await host.must(['sh', '-c', `rm -rf ${RUN}/orders/0000* ${RUN}/refused/*`])
      await asSmith(`mv ${AGENT}/withheld ${INBOX}/grant-${captured.order}.json`)
      await host.must(['systemctl', 'start', 'smith-agent'])
      await succeeds(t, given, change)
    },
  },
  {
    what: '[HST-64] a grant that was used is used no more, also under another name and after a reboot',
    body: async (t, given) => {
      const { site, host, asSmith, build, version } = given
      const release = await holdRunner(given)
      await publishBuild(site, build, [{ name: 'hello', version }])
      const change = await startPatch(site, build, [host.name])
      const { order, grant } = await capture(given)
      await release()
      await succeeds(t, given, change)
      const before = await history(host)
      await host.must(['systemctl', 'stop', 'smith-agent'])
      const late = resign(site, { order: 'b'.repeat(32), grant }, {})
      for (const [name, entry] of [
        [order, grant],
        ['d'.repeat(32), grant],
        ['b'.repeat(32), late],
      ] as const)
        await asSmith(`cat > ${INBOX}/grant-${name}.json`, entryOf(entry))
      await untilIdle(given)
      t.match(await host.read('/opt/smith-agent.log'), /its fence [0-9]+ is not above/, 'nor does a fence come twice')
      await host.must(['sh', '-c', `rm -rf ${RUN}/orders/bbbb* ${RUN}/refused/*`])
      t.equal(await history(host), before, 'apt did nothing more')
      await asSmith(`cat > ${INBOX}/grant-${order}.json`, entryOf(grant))
      await host.reboot()
      await untilIdle(given)
      await online(site, host.name)
      t.equal(await history(host), before, 'nor after the reboot')
    },
  },
]

// --- downloads ------------------------------------------------------------------------------------------------

const PLANTED = ['same', 'link', 'pipe', 'folder', 'hard', 'sparse', 'swapped'] as const

const downloads: readonly Scenario[] = [
  {
    what: '[HST-65] whatever is planted among the downloads, and swapped while it is read, what was approved is installed',
    body: async (t, given) => {
      const { site, host, build, version, asSmith } = given
      const names = PLANTED.map((name) => `p-${name}`)
      const spec = (name: string) => ({ name, version, files: { [`/usr/share/${name}/text`]: `${name} ${version}\n` } })
      const environment = 'env > /var/tmp/environment; pwd >> /var/tmp/environment'
      const hello = await site.build({ name: 'hello', version, depends: names.join(', '), postinst: environment })
      const built = await Promise.all(names.map((name) => site.build(spec(name))))
      await publishBuild(site, build, [hello, ...built])
      const release = await holdRunner(given)
      const change = await startPatch(site, build, [host.name])
      const { order } = await capture(given)
      for (const deb of built) await host.copyIn(deb.path, `/var/tmp/${deb.name}.deb`)
      const file = (name: string) => `p-${name}_${version}_all.deb`
      const at = `${AGENT}/prefetch/${order}/cache/archives`
      await asSmith(
        `mkdir -p ${at}; cd ${at}
         cp /var/tmp/p-same.deb ${file('same')}; printf 'evil' | dd of=${file('same')} conv=notrunc bs=1 seek=200 status=none
         ln -s /etc/shadow ${file('link')}; mkfifo ${file('pipe')}; mkdir ${file('folder')}
         cp /var/tmp/p-hard.deb other; ln other ${file('hard')}
         truncate --size=20G ${file('sparse')}
         cp /var/tmp/p-swapped.deb good; cp good bad; printf 'evil' | dd of=bad conv=notrunc bs=1 seek=200 status=none
         cp /var/tmp/p-same.deb evil_9_all.deb`,
      )
      // The file and the folders above it become another, all the time.
      const swap = `cd ${at}/..; while :; do
        for one in good bad; do ln -f archives/$one archives/${file('swapped')}; done
        rm -f archives/${file('swapped')}; ln -s /etc/shadow archives/${file('swapped')}; rm archives/${file('swapped')}; mkfifo archives/${file('swapped')}
        mv archives away; ln -s /etc archives; rm archives; ln -s archives archives; rm archives; mv away archives
      done`
      await host.must(['systemd-run', '--unit=swap', '--uid=smith', 'sh', '-c', swap])
      await release()
      await succeeds(t, given, change)
      await host.must(['systemctl', 'stop', 'swap'])
      for (const name of names) t.equal(await host.read(`/usr/share/${name}/text`), `${name} ${version}\n`)
      t.not((await host.run(['dpkg', '--status', 'evil'])).status, 0)
      await checkEnvironment(t, host)
    },
  },
]

/** What the scripts of packages run with is what smith says and dpkg adds, and nothing that anyone else set. */
async function checkEnvironment(t: Test, host: Host): Promise<void> {
  const lines = (await host.read('/var/tmp/environment')).trim().split('\n')
  t.equal(lines.pop(), '/', 'the working folder')
  const KNOWN =
    /^(APT_|DEBIAN_|DPKG_|NEEDRESTART_|SMITH_|UCF_)[A-Z_]+=|^(HOME=\/root|LC_ALL=C\.UTF-8|OLDPWD=.*|PWD=\/|SHLVL=.*|_=.*|PATH=\/[a-z:/]+)$/
  t.strictSame(
    lines.filter((line) => !KNOWN.test(line)),
    [],
    'nothing else is in the environment',
  )
}

// --- the inbox ------------------------------------------------------------------------------------------------

const GARBAGE = `cd ${INBOX}
  echo '{' > grant-00000000000000000000000000000001.json
  ln -s /etc/shadow grant-00000000000000000000000000000002.json
  mkfifo grant-00000000000000000000000000000003.json pipe
  mkdir -p grant-00000000000000000000000000000004.json/deep
  truncate --size=50G grant-00000000000000000000000000000005.json
  echo '{}' > grant-00000000000000000000000000000006.json; chmod 0 grant-00000000000000000000000000000006.json
  cp ${AGENT}/identity.json ${AGENT}/linked; ln ${AGENT}/linked grant-00000000000000000000000000000007.json
  ln -s /dev/zero zero; ln -s loop loop; ln -s / root
  perl -e 'use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, pack_sockaddr_un("socket")) or die'
  : > "$(printf 'new\\nline')"; : > "$(printf '\\033[2J\\033[31mred')"; : > "$(printf 'no\\377text')"; : > "$(printf '\\342\\200\\256evil')"
  : > -rf; : > '$(reboot)'; : > con; : > .hidden; : > .new-left
  perl -e 'for (1 .. 3000) { mkdir "d"; chdir "d" or die }'`

/** Most are empty, because a disk may take long for each block that is given back. */
const FLOOD = `cd ${INBOX}
  perl -e 'for (1 .. 100000) {
    my $n = $_ % 3 == 0 ? sprintf("revoke-%032x.json", $_) : $_ % 3 == 1 ? sprintf("grant-%032x.json", $_) : "garbage-$_";
    open(my $f, ">", $n) or die; print $f (sprintf qq({"type":"revoke","order":"%032x"}), $_) if $_ < 3000 }'`

/** Entries come, go and change their kind all the time. */
const BUSTLE = `cd ${INBOX}; while :; do
  n=grant-ffffffffffffffffffffffffffffffff.json; echo '{' > $n; rm -f $n; mkdir -p $n/x; rm -rf $n; ln -s /etc/shadow $n; rm -f $n; mkfifo $n; rm -f $n; echo x >> growing
done`

/** Ids that are links, folders, a pipe; names that are no id; and many that are. */
const STRANGE_ASKS = `cd /var/lib/smith/asks
# What was dropped first may be gone before the next is.
set +e
id() { printf "$1%.0s" $(seq 32); }
ln -s /etc/shadow $(id a)
ln -s / $(id b)
mkdir -p $(id c)/deep/er
ln -s /etc $(id c)/deep/link
mkfifo $(id d)
touch -- '--config=/tmp/x' 'new
line' "$(printf '\\377A')"
for n in $(seq 200); do touch $(printf '%032x' $n); done
exit 0
`

const entries: readonly Scenario[] = [
  {
    what: '[HST-66] an inbox full of garbage is emptied without a fault, nothing of it is drawn or read, and the next good order starts',
    body: async (t, given) => {
      const { host, asSmith } = given
      await host.must(['truncate', '--size=0', '/opt/smith-agent.log'])
      await asSmith(GARBAGE)
      await untilIdle(given)
      const log = await host.read('/opt/smith-agent.log')
      t.match(log, /refused "new\\nline"/)
      // oxlint-disable-next-line no-control-regex -- they are what is looked for
      t.notMatch(log, /[\u0000-\u0008\u000b-\u001f\u007f\u202e]/, 'names draw nothing on a terminal')
      const kept = await host.must([
        'find',
        `${RUN}/refused`,
        '-maxdepth',
        '1',
        '-type',
        'f',
        '-size',
        '-1M',
        '-exec',
        'cat',
        '{}',
        '+',
      ])
      t.notMatch(kept, /root:/, 'nothing of a file of root was copied')
      await host.must(['systemd-run', '--unit=bustle', '--uid=smith', 'sh', '-c', BUSTLE])
      await worksWell(t, given)
      await host.must(['systemctl', 'stop', 'bustle'])
      await host.must(['sh', '-c', `rm -rf ${INBOX}/growing ${INBOX}/grant-f*`])
    },
  },
  {
    what: '[RPT-15] whatever the user smith puts into asks/, root reads none of it, writes nowhere else, and the next report comes',
    body: async (t, { site, host, asSmith }) => {
      const shadow = () => host.must(['sha256sum', '/etc/shadow'])
      const before = await shadow()
      await asSmith(STRANGE_ASKS)
      await until(
        'asks/ to be emptied',
        async () => (await host.must(['find', '/var/lib/smith/asks', '-mindepth', '1'])) === '',
        600_000,
      )
      t.equal(await shadow(), before)
      const planted = await host.run([...AS_SMITH, 'touch', `${RUN}/reports/${'e'.repeat(32)}`])
      t.not(planted.status, 0, 'what root says of the machine only root writes')
      const folder = t.testdir()
      const { status, stderr } = await site.smith('report', host.name, '--output', folder)
      t.equal(status, 0, stderr)
      const read = (file: string) => readFileSync(`${folder}/${host.name}/${file}`, 'utf8')
      t.match(read('smith-units.txt'), /smith-report\.path/, 'it is the machine’s own')
      t.notMatch(await host.journal('smith-report'), /no health report/, 'and the collector never failed')
    },
  },
  {
    what: '[HST-67] a hundred thousand files in the inbox leave a bounded trace, and the next good order starts',
    body: async (t, given) => {
      const { site, host, asSmith } = given
      const release = await holdRunner(given)
      await host.must(['systemctl', 'stop', 'smith-agent'])
      await asSmith(FLOOD)
      const size = async () => Number(await host.must(['stat', '--format=%s', '/opt/smith-agent.log']))
      const before = await size()
      const since = performance.now()
      await release()
      await untilIdle(given)
      t.comment(`emptied in ${Math.round(performance.now() - since)} ms`)
      t.ok((await size()) - before < 1_000_000, 'the log of the machine is not flooded')
      const orders = (await host.must(['ls', `${RUN}/orders`])).trim().split('\n').length
      t.ok(orders < 1100, `${orders} orders are known`)
      t.equal((await host.must(['ls', `${RUN}/refused`])).trim().split('\n').length, 100)
      // What no coordinator knows of would only alarm it.
      await host.must(['sh', '-c', `rm -rf ${RUN}/orders/0000* ${RUN}/refused/*`])
      await host.must(['systemctl', 'start', 'smith-agent'])
      await online(site, host.name)
      await worksWell(t, given)
    },
  },
]
