import * as v from 'valibot'

/** Names that would pass for the service, its staff or a part of its address. */
const RESERVED = `
  about abuse account accounts admin administrator admins all anonymous anyone api app auth billing blog bot careers
  cloudflare compliance contact copyright customerservice deleted dev developer developers docs email everybody everyone
  everything explore faq feed feedback followers followings guest help helpdesk here home hostmaster hot hotline info
  legal login logout mail marketing me mod moderation moderator moderators mods myself news newsletter nobody noreply
  notification notifications null official owner password payments policy post postmaster posts press privacy
  recommendations register replies root sales search security service session sessions settings signin signout signup
  staff status superuser support sysadmin system team terms test threads threadsedge trust undefined unknown user
  username users verified verify webhook webhooks webmaster www you
`

/** Look-alikes become one: digits that stand for letters, `l` for `i`, underscores for nothing. */
const LOOKALIKES: Record<string, string> = { 0: 'o', 1: 'i', l: 'i', 3: 'e', 4: 'a', 5: 's', 7: 't', _: '' }
const skeletonOf = (name: string) => name.toLowerCase().replaceAll(/[013457l_]/g, (letter) => LOOKALIKES[letter] ?? '')

const reserved = new Set(RESERVED.trim().split(/\s+/).map(skeletonOf))

/** Refuses a username that is reserved, or reads like a reserved one: `admin`, `_Admin_`, `adm1n`. */
export const notReserved = v.check<string, string>((name) => !reserved.has(skeletonOf(name)), 'is reserved')
