/**
 * The sandbox of the agent's unit on a booted host: what each of its directives is there to refuse is tried, inside
 * the very unit with another program in it, and outside by the same user. Skipped by name where no host can be booted.
 */
import t from 'tap'
import { startHostSite } from './scenario.ts'
import { whyNoHosts } from './base.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

const AGENT = '/var/lib/smith/agent'
const INBOX = '/var/lib/smith/inbox'
const RUN = '/var/lib/smith/run'

/** What is tried, inside the agent's sandbox and outside, by the directive that refuses it. */
const TRIES: Readonly<Record<string, string>> = {
  NoNewPrivileges: '[ "$(/usr/local/bin/id-of-root --user)" = 0 ]',
  'ProtectSystem=strict, /etc': 'touch /etc/open/x',
  'ProtectSystem=strict, /var': 'touch /var/lib/open/x',
  'ReadWritePaths, the folder of the runner': `touch ${RUN}/open/x`,
  ProtectHome: 'cat /home/open/x',
  PrivateTmp: 'cat /tmp/others',
  PrivateDevices: '[ -e /dev/other ]',
  PrivateIPC: `perl -e 'exit(defined(shmget(4242, 0, 0)) ? 0 : 1)'`,
  ProtectControlGroups: 'mkdir /sys/fs/cgroup/open/x && rmdir /sys/fs/cgroup/open/x',
  LockPersonality: 'setarch --addr-no-randomize true',
  RestrictNamespaces: 'unshare --user true',
  RestrictSUIDSGID: `touch ${AGENT}/own && chmod u+s ${AGENT}/own`,
  RestrictAddressFamilies: `perl -e 'socket(my $s, 40, 1, 0) or exit 1'`,
  SystemCallFilter: `perl -e 'exit(syscall($ENV{PTRACE}, 0, 0, 0, 0) == 0 ? 0 : 1)'`,
  UMask: `rm -f ${AGENT}/own && touch ${AGENT}/own && [ "$(stat --format=%a ${AGENT}/own)" != 600 ]`,
}
/** What the agent needs: the sandbox must let it. */
const NEEDS: Readonly<Record<string, string>> = {
  'its own folder': `touch ${AGENT}/own`,
  'the inbox': `touch ${INBOX}/.new-own && rm ${INBOX}/.new-own`,
  'the records of runs': `ls ${RUN}/orders`,
  'the machine’s state': 'cat /var/lib/dpkg/status',
}

t.test(
  '[HST-62] each directive of the sandbox refuses what its reason says, and nothing that the agent needs',
  { skip },
  async (t) => {
    const site = await startHostSite(t)
    const host = await site.addHost('prod-dal10-sandbox1-worker-1')
    const folders = `/etc/open /var/lib/open /home/open ${RUN}/open /sys/fs/cgroup/open`
    await host.must([
      'sh',
      '-euc',
      `umask 0; mkdir ${folders}; echo x > /home/open/x; echo x > /tmp/others; echo x > /dev/other
     cp /usr/bin/id /usr/local/bin/id-of-root; chmod 4755 /usr/local/bin/id-of-root
     perl -e 'defined(shmget(4242, 4096, 01666)) or die'`,
    ])
    const ptrace = process.arch === 'arm64' ? 117 : 101
    const lines = Object.entries({ ...TRIES, ...NEEDS }).map(
      ([what, command]) => `( ${command} ) >/dev/null 2>&1 && echo '${what}'`,
    )
    await host.write('/usr/local/lib/tries', `export PTRACE=${ptrace}\n${lines.join('\n')}\ntrue\n`)
    const unit = await host.read('/usr/lib/systemd/system/smith-agent.service')
    const tries = unit
      .replace(/^ExecStart=.*$/m, 'ExecStart=/bin/sh /usr/local/lib/tries\nStandardOutput=file:/run/inside')
      .replace(/^Restart=.*$/m, 'RemainAfterExit=no')
      .replace('Type=exec', 'Type=oneshot')
    await host.write('/run/systemd/system/tries.service', tries)
    await host.must(['systemctl', 'daemon-reload'])
    await host.must(['systemctl', 'start', 'tries'])
    const outside = (
      await host.must(['setpriv', '--reuid=smith', '--regid=smith', '--clear-groups', 'sh', '/usr/local/lib/tries'])
    )
      .trim()
      .split('\n')
    const inside = (await host.read('/run/inside')).trim().split('\n')
    t.strictSame(inside, Object.keys(NEEDS), 'inside, only what the agent needs')
    t.strictSame(outside, [...Object.keys(TRIES), ...Object.keys(NEEDS)], 'outside, all of it')
    await host.must([
      'sh',
      '-c',
      `rm -rf ${folders.replace('/sys/fs/cgroup/open', '')} /run/systemd/system/tries.service /usr/local/bin/id-of-root /dev/other; rmdir /sys/fs/cgroup/open; ipcrm --shmem-key 4242; systemctl daemon-reload`,
    ])
    const exposure = /exposure level for smith-agent.service: ([0-9.]+)/.exec(
      await host.must(['systemd-analyze', 'security', '--no-pager', 'smith-agent.service']),
    )?.[1]
    t.ok(Number(exposure) < 2, `systemd-analyze security says ${exposure}`)
  },
)
