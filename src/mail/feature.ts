import { type Feature, provide } from '../feature.ts'
import { vaultService } from '../webhooks/vault.ts'
import { createMailPort, mailPort } from './mail.ts'

/** Mail to users. */
export const mail: Feature = {
  name: 'mail',
  provides: [
    provide(mailPort, ({ use, config, email }) =>
      createMailPort(use(vaultService), {
        from: config.mail.from,
        binding: email,
        isPrinted: config.webhooks.isPrivateAllowed,
      }),
    ),
  ],
  listener: ({ use }) => use(mailPort).listener,
}
